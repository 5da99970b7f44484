"""Timer: how long each stage takes, and a limit on training time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from scaffold_runtime import settings
from scaffold_runtime.errors import check_choice
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class Timer(Callback):
    """Measure training, validation and testing, and stop training after `duration`.

    The time trained so far is saved in checkpoints, so that it counts in a resumed run.

    Args:
        duration: "DD:HH:MM:SS", a timedelta, or a dict of its arguments; None for no limit.
        interval: "step" or "epoch": when the limit is checked.
        verbose: print a line when the limit is reached.

    Raises:
        MisconfigurationException: if an argument is wrong.
    """

    def __init__(
        self,
        duration: str | timedelta | dict[str, int] | None = None,
        interval: str = "step",
        verbose: bool = True,
    ) -> None:
        check_choice(self, "interval", interval, "step", "epoch")
        self._limit = None if duration is None else settings.seconds("Timer duration", duration)
        self._interval, self._verbose = interval, verbose
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._before = 0.0  # seconds trained up to the resumed checkpoint

    def start_time(self, stage: str = "train") -> float | None:
        """When `stage` ("train", "validate", "test") began, on the monotonic clock."""
        return self._began.get(stage)

    def end_time(self, stage: str = "train") -> float | None:
        """When `stage` ended, on the monotonic clock; None while it runs."""
        return self._ended.get(stage)

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds spent in `stage`; for training, including the time up to the resumed checkpoint."""
        if stage not in self._began:
            return self._before if stage == "train" else 0.0
        end = self._ended.get(stage, time.monotonic())
        return end - self._began[stage] + (self._before if stage == "train" else 0.0)

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds left before the limit; None without one."""
        return None if self._limit is None else self._limit - self.time_elapsed(stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)  # the resumed run may have used up the time

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = str(trainer.state.stage)
        self._began[stage] = time.monotonic()
        self._ended.pop(stage, None)

    on_validation_start = on_test_start = on_train_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended[str(trainer.state.stage)] = time.monotonic()

    on_validation_end = on_test_end = on_train_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._interval == "step":
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._interval == "epoch":
            self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        elapsed = self.time_elapsed()
        if self._limit is None or elapsed < self._limit or trainer.should_stop:
            return
        trainer.should_stop = True
        if self._verbose:
            limit = timedelta(seconds=round(self._limit))
            trainer.print(f"Timer: the time limit of {limit} was reached after {elapsed:.1f} s.")

    def state_dict(self) -> dict[str, Any]:
        return {"time_elapsed": {"train": self.time_elapsed()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = float(state_dict["time_elapsed"]["train"])
