"""TQDMProgressBar: progress drawn by tqdm."""

from __future__ import annotations

import sys
from typing import Any

from scaffold_runtime.callbacks.progress.progress_bar import ProgressBar, number
from scaffold_runtime.extras import require


class TQDMProgressBar(ProgressBar):
    """Show progress with tqdm on a terminal and in a notebook; elsewhere, plain lines as a `ProgressBar` writes.

    Args:
        refresh_rate: check every N batches whether to redraw; 0 switches the bar off.
        process_position: lines left free above the bar, for several runs at once.
        leave: keep the bar of each finished epoch on the screen.

    Raises:
        MissingExtra: if `tqdm` is not installed.
    """

    BAR_FORMAT = (
        "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
    )

    def __init__(
        self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False
    ) -> None:
        super().__init__(refresh_rate)
        self.process_position, self.leave = process_position, leave
        self._tqdm = require("tqdm", "scaffold-runtime[tqdm]", "TQDMProgressBar").tqdm
        self._bar: Any = None
        self._drawn = ""  # the stage that the bar shows

    def init_train_tqdm(self) -> Any:
        """Create the bar of a training epoch; override it, or those of the other stages, to create another one."""
        return self._tqdm(
            total=self._known_total(),
            desc=self._label,
            initial=self._began_at,
            position=self.process_position,
            leave=False,
            delay=1e-9,  # not drawn before its position is set
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
        )

    init_sanity_tqdm = init_validation_tqdm = init_train_tqdm
    init_test_tqdm = init_predict_tqdm = init_train_tqdm

    def _show(self, metrics: dict[str, Any]) -> None:
        if self._drawn != self._stage:
            self._hide()
        if self._bar is None:
            self._drawn = self._stage
            self._bar = getattr(self, f"init_{self._stage}_tqdm")()
            self._bar.total = self._known_total()
            if not self._bar.disable:
                self._bar.start_t -= self._elapsed()
        shown = {name: number(value) for name, value in metrics.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.n = self._done
        self._bar.refresh()

    def _hide(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def __getattr__(name: str) -> Any:
    """`Tqdm`, a bar class for the `init_*_tqdm` methods; imported late, since tqdm is optional."""
    if name == "Tqdm":
        return require("tqdm", "scaffold-runtime[tqdm]", "Tqdm").tqdm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
