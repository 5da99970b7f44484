"""EarlyStopping: stop when a metric no longer improves."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.errors import MisconfigurationException, check_choice, not_logged
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class EarlyStoppingReason(enum.Enum):
    """Why training was stopped."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(Callback):
    """Stop training when `monitor` has not improved for `patience` checks.

    Args:
        monitor: the logged name to watch.
        min_delta: the smallest change that counts as an improvement.
        patience: checks without improvement before stopping. A check is one validation, or one
            training epoch where there is no validation.
        verbose: say when it improves.
        mode: "min" or "max": which way is better.
        strict: raise an error if `monitor` is missing at a check.
        check_finite: stop when `monitor` becomes NaN or infinite.
        stopping_threshold: stop at once when `monitor` is better than this.
        divergence_threshold: stop at once when `monitor` is worse than this.
        check_on_train_epoch_end: check at the end of training epochs and not after validation.
        log_rank_zero_only: say why it stopped on rank 0 only.

    Raises:
        MisconfigurationException: if `mode` is unknown, or `monitor` is missing at a check.
    """

    runs_last = True

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        check_choice(self, "mode", mode, "min", "max")
        if patience < 0:
            raise MisconfigurationException(
                f"EarlyStopping(patience={patience}): give a number of checks, at least 0."
            )
        self.monitor, self.min_delta, self.patience = monitor, min_delta, patience
        self.verbose, self.mode, self.strict = verbose, mode, strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.log_rank_zero_only = log_rank_zero_only
        self._check_on_train_epoch_end = check_on_train_epoch_end
        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score = torch.tensor(math.inf if mode == "min" else -math.inf)
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def state_dict(self) -> dict[str, Any]:
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = torch.as_tensor(state_dict["best_score"]).reshape(())
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._check_on_train_epoch_end is None and stage == "fit":
            self._check_on_train_epoch_end = trainer.validates_each_epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopped = self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
        # The checkpoint was saved after the decision to stop; a raised `patience` revokes it.
        if self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            stopped = self.wait_count >= self.patience
        if trainer._live().resumed and stopped:
            trainer.should_stop = True
            said = f"EarlyStopping: {self.monitor} had stopped this run. Remove it, or raise a patience that ran out."
            self._log_info(trainer, said, self.log_rank_zero_only)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._check_on_train_epoch_end and not self._should_skip_check(trainer):
            self._run_early_stopping_check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._check_on_train_epoch_end and not self._should_skip_check(trainer):
            self._run_early_stopping_check(trainer)

    # -- under Lightning's names, since subclasses override these -----------------------------------

    def _should_skip_check(self, trainer: Trainer) -> bool:
        return trainer.fn != "fit" or trainer.sanity_checking

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        logs = trainer.callback_metrics
        early = self.monitor not in logs and trainer.validation_ahead
        if trainer.fast_dev_run or early or not self._validate_condition_metric(logs):
            return
        should_stop, message = self._evaluate_stopping_criteria(logs[self.monitor])
        self.stopping_reason_message = message
        if should_stop:
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
        if message and (should_stop or self.verbose):
            self._log_info(trainer, message, self.log_rank_zero_only)

    def _validate_condition_metric(self, logs: dict[str, torch.Tensor]) -> bool:
        if self.monitor not in logs and self.strict:
            raise not_logged(self, self.monitor, logs)
        return self.monitor in logs

    def _log_info(self, trainer: Trainer, message: str, log_rank_zero_only: bool) -> None:
        trainer.print(message)

    def _evaluate_stopping_criteria(self, current: torch.Tensor) -> tuple[bool, str | None]:
        self.stopping_reason, message = self._judge(torch.as_tensor(current).cpu())
        return self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED, message

    @property
    def monitor_op(self) -> Any:
        """The function that compares two scores: `torch.lt` or `torch.gt`."""
        return torch.lt if self.mode == "min" else torch.gt

    def _better(self, value: torch.Tensor, than: Any) -> bool:
        """Compared in the metric's own precision, so that 0.6 is not above 0.5 + 0.1."""
        return bool(self.monitor_op(value, than))

    def _judge(self, current: torch.Tensor) -> tuple[EarlyStoppingReason, str | None]:
        name, reasons = self.monitor, EarlyStoppingReason
        if self.check_finite and not math.isfinite(current):
            return reasons.NON_FINITE_METRIC, (
                f"EarlyStopping: {name} = {current} is not finite. Best value so far: {self.best_score:.4g}."
            )
        if self.stopping_threshold is not None and self._better(current, self.stopping_threshold):
            return reasons.STOPPING_THRESHOLD, (
                f"EarlyStopping: {name} = {current:.4g} reached the threshold {self.stopping_threshold}."
            )
        limit = self.divergence_threshold
        if limit is not None and self._better(-current, -limit):
            return reasons.DIVERGENCE_THRESHOLD, (
                f"EarlyStopping: {name} = {current:.4g} is beyond the divergence threshold {limit}."
            )
        delta = -self.min_delta if self.mode == "min" else self.min_delta
        best = self.best_score
        if self._better(current - delta, best):
            self.best_score, self.wait_count = current.clone(), 0
            return reasons.NOT_STOPPED, f"{name} improved from {best:.4g} to {current:.4g}"
        self.wait_count += 1
        if self.wait_count >= self.patience:
            return reasons.PATIENCE_EXHAUSTED, (
                f"EarlyStopping: {name} did not improve in {self.wait_count} checks. "
                f"Best value: {self.best_score:.4g}."
            )
        return reasons.NOT_STOPPED, None
