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
        self._drawn = ""  # the stage that it is a bar of

    def init_train_tqdm(self) -> Any:
        """Make the bar of an epoch of training; override it, or those of the other stages, to make another."""
        return self._tqdm(
            total=self._known_total(),
            desc=self._label,
            initial=self._began_at,
            position=self.process_position,
            leave=False,
            delay=1e-9,  # it is not drawn before it knows how far the stage is
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
    """`Tqdm`, the bar to make in the `init_*_tqdm`; a package that need not be there."""
    if name == "Tqdm":
        return require("tqdm", "scaffold-runtime[tqdm]", "Tqdm").tqdm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
