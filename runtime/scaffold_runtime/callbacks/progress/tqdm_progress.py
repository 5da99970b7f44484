"""TQDMProgressBar: progress drawn by tqdm."""

from __future__ import annotations

import math
import sys
from typing import Any

from scaffold_runtime.callbacks.progress.progress_bar import ProgressBar, number
from scaffold_runtime.extras import require

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"


class TQDMProgressBar(ProgressBar):
    """Show progress with tqdm on a terminal; in a pipe or a file, one plain line per epoch.

    Args:
        refresh_rate: look at the clock every so many batches; 0 switches the bar off.
        process_position: lines left free above the bar, for several runs at once.
        leave: keep the bar of each finished epoch on the screen.

    Raises:
        MissingExtra: if `tqdm` is not installed.
    """

    def __init__(
        self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False
    ) -> None:
        super().__init__(refresh_rate)
        self.process_position, self.leave = process_position, leave
        self._tqdm = require("tqdm", "scaffold-runtime[tqdm]", "TQDMProgressBar").tqdm
        self._bar: Any = None

    def _show(self, metrics: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = self._tqdm(
                total=None if self._total == math.inf else int(self._total),
                initial=self._began_at,
                position=self.process_position,
                leave=False,
                dynamic_ncols=True,
                file=sys.stdout,
                bar_format=FORMAT,
            )
            self._bar.start_t -= self._elapsed()
        self._bar.set_description(self._label, refresh=False)
        shown = {name: number(value) for name, value in metrics.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.n = self._done
        self._bar.refresh()

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
