"""Callbacks: what is added to training without changing the model."""

from __future__ import annotations

from datetime import timedelta

from scaffold_runtime import settings
from scaffold_runtime.callbacks.batch_size_finder import BatchSizeFinder
from scaffold_runtime.callbacks.callback import Callback
from scaffold_runtime.callbacks.checkpoint import Checkpoint
from scaffold_runtime.callbacks.device_stats_monitor import DeviceStatsMonitor
from scaffold_runtime.callbacks.early_stopping import EarlyStopping
from scaffold_runtime.callbacks.finetuning import BackboneFinetuning, BaseFinetuning
from scaffold_runtime.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
from scaffold_runtime.callbacks.lambda_function import LambdaCallback
from scaffold_runtime.callbacks.lr_finder import LearningRateFinder
from scaffold_runtime.callbacks.lr_monitor import LearningRateMonitor
from scaffold_runtime.callbacks.model_checkpoint import ModelCheckpoint
from scaffold_runtime.callbacks.model_summary import ModelSummary
from scaffold_runtime.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
from scaffold_runtime.callbacks.prediction_writer import BasePredictionWriter
from scaffold_runtime.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
from scaffold_runtime.callbacks.rich_model_summary import RichModelSummary
from scaffold_runtime.callbacks.stochastic_weight_avg import StochasticWeightAveraging
from scaffold_runtime.callbacks.throughput_monitor import ThroughputMonitor
from scaffold_runtime.callbacks.timer import Timer
from scaffold_runtime.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging
from scaffold_runtime.errors import MisconfigurationException

__all__ = [
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "ThroughputMonitor",
    "Timer",
    "WeightAveraging",
    "default_callbacks",
]


def default_callbacks(
    given: list[Callback] | Callback | None,
    *,
    max_time: str | timedelta | dict[str, int] | None,
    checkpointing: bool,
    progress_bar: bool,
    summary: bool,
) -> list[Callback]:
    """The callbacks of a Trainer: those given, and a default of each kind that is not given.

    Raises:
        MisconfigurationException: for objects that are not callbacks, or that contradict a switch.
    """
    callbacks = [given] if isinstance(given, Callback) else list(given or ())
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise MisconfigurationException(
                f"Trainer(callbacks=...): {callback!r} is not a Callback. "
                "Subclass `scaffold_runtime.Callback`, and pass instances, not classes. One of another package's: "
                "`class Mine(Theirs, scaffold_runtime.Callback): pass`."
            )

    def has(kind: type[Callback]) -> int:
        return sum(isinstance(callback, kind) for callback in callbacks)

    if has(ProgressBar) > 1:
        raise MisconfigurationException(
            f"Trainer(callbacks=...): there are {has(ProgressBar)} progress bars. Leave all but one of them out."
        )

    for kind, wanted, name in (
        (ProgressBar, progress_bar, "enable_progress_bar"),
        (Checkpoint, checkpointing, "enable_checkpointing"),
    ):
        if has(kind) and not wanted:
            raise MisconfigurationException(
                f"Trainer({name}=False) contradicts the {kind.__name__} among its callbacks: leave one out."
            )
    if progress_bar and not has(ProgressBar):
        callbacks.append(ProgressBar())
    if summary and not has(ModelSummary):
        callbacks.append(ModelSummary())
    if max_time is not None and not has(Timer):
        limit = settings.seconds("max_time", max_time)
        callbacks.append(Timer(timedelta(seconds=limit)))
    if checkpointing and not has(Checkpoint):  # idle in `fast_dev_run`
        callbacks.append(ModelCheckpoint())
    return sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
