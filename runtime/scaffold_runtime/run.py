"""Run: everything alive between set-up and teardown of one fit, validate, test or predict."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaffold_runtime.checks import check_first_batch, check_monitors, warn_not_finite
from scaffold_runtime.combined import loader_length
from scaffold_runtime.data import LightningDataModule, map_leaves, move_data_to_device
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback, Checkpoint, HookTable, overridden
from scaffold_runtime.loaders import (
    TrainSource,
    as_eval_loaders,
    as_train_loader,
    for_evaluation,
    limited,
)
from scaffold_runtime.loops.evaluate import evaluate, no_grad
from scaffold_runtime.loops.step import make_backward, make_clip, make_zero_grad, window_of
from scaffold_runtime.metrics import Metrics, Scalar
from scaffold_runtime.module import LightningModule
from scaffold_runtime.optim import LightningOptimizer, LRSchedulerConfig, Schedules
from scaffold_runtime.precision import Precision
from scaffold_runtime.progress import Progress
from scaffold_runtime.seed import set_rng_state
from scaffold_runtime.sharding import Shares
from scaffold_runtime.signals import Signals
from scaffold_runtime.strategies.base import Prepared

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

STEP_METHODS = {
    "validation": "validation_step",
    "test": "test_step",
    "predict": "predict_step",
}
LOADER_METHODS = {
    "train": "train_dataloader",
    "validation": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}


LOSS = "training loss, not logged by name"


class Run:
    """The live record the loops work on. `session.open_run` builds it and takes it down."""

    hooks: HookTable
    prepared: Prepared
    precision: Precision
    train: TrainSource
    schedules: Schedules
    training_step: Callable[..., Any]
    backward: Callable[..., None]
    zero_grad: Callable[[Optimizer], None]
    clip: Callable[[Optimizer], None]
    to_device: Callable[[Any, int], Any]

    def __init__(
        self,
        trainer: Trainer,
        fn: str,
        module: LightningModule,
        datamodule: LightningDataModule | None,
        given: dict[str, Any],
    ) -> None:
        self.trainer, self.fn, self.module, self.datamodule = trainer, fn, module, datamodule
        self.given = given  # loaders passed to fit, validate, test or predict
        self.progress: Progress = trainer.progress
        self.metrics: Metrics = trainer.metrics
        self.callbacks: list[Callback] = []
        self.checkpoints: list[Checkpoint] = []
        self.optimizers: list[Optimizer] = []
        self.manual_optimizers: list[LightningOptimizer] = []
        self.scheduler_configs: list[LRSchedulerConfig] = []
        self.resumed = False
        self.chosen: str | None = None  # the checkpoint somebody chose to resume from
        self.signals = Signals()
        self.signal_agreed = trainer.world_size == 1
        self.position: dict[str, Any] | None = None  # in the training data, from a checkpoint
        self.rng_to_restore: dict[str, Any] | None = None
        self.validates = False
        self.validated = False
        self.sanity = False
        self.stopping = False
        self.stepped = False
        self.mid_window = False
        self.is_last_batch = False
        self.validate_every = math.inf
        self.last_validation = trainer.strategy.now()
        self.several = trainer.world_size > 1  # processes
        self.shares: Shares | None = None  # which part of the data is for this one
        self.step_limit = math.inf if trainer.max_steps == -1 else trainer.max_steps
        self.predictions: list[list[Any]] = []
        self.predicted_batches: list[list[Any]] = []
        self._eval_loaders: dict[str, list[Any]] = {}
        self._eval_iterables: dict[str, list[Any]] = {}
        self._unchecked = True
        self.warned_not_finite = False

    # -- data -----------------------------------------------------------------------------------

    def source(self, stage: str) -> Any:
        """The loader, or loaders, of a stage: as passed, from the data module, or from the module."""
        if self.given.get(stage) is not None:
            return self.given[stage]
        name = LOADER_METHODS[stage]
        if self.datamodule is not None and overridden(name, self.datamodule, LightningDataModule):
            return getattr(self.datamodule, name)()
        if overridden(name, self.module, LightningModule):
            return getattr(self.module, name)()
        return None

    def eval_loaders(self, stage: str) -> list[Any]:
        if stage not in self._eval_loaders:
            loaders = as_eval_loaders(self.source(stage))
            if self.shares is not None:
                loaders = [self.shares.of_evaluation(loader) for loader in loaders]
            self._eval_loaders[stage] = loaders
        return self._eval_loaders[stage]

    def eval_iterables(self, stage: str) -> list[tuple[Any, Any]]:
        """The loaders of a stage, each with what to iterate in its place."""
        loaders = self.eval_loaders(stage)
        if stage not in self._eval_iterables:
            self._eval_iterables[stage] = [for_evaluation(loader) for loader in loaders]
        return list(zip(loaders, self._eval_iterables[stage], strict=True))

    def open_train_data(self) -> None:
        """Ask for the training loader and work out when validation is due."""
        trainer = self.trainer
        sequential = trainer.overfit_batches > 0
        loader = as_train_loader(self.source("train"))
        if self.shares is not None:
            loader = self.shares.of_training(loader, sequential)
        self.train = TrainSource(loader, trainer.limit_train_batches, sequential)
        if self.several:
            self._agree_on_length()
        if self.train.length == 0 and trainer.limit_train_batches != 0:
            raise MisconfigurationException(
                "the training data loader is empty: its length is 0. Check the data set, and `drop_last` "
                "where the data set is smaller than a batch."
            )
        interval = trainer.val_check_interval
        if isinstance(interval, float) and self.train.length != math.inf:
            self.validate_every = max(1, int(self.train.length * interval))
        elif isinstance(interval, float) and interval != 1.0:
            raise MisconfigurationException(
                f"val_check_interval={interval} is a fraction of an epoch, but the training loader has no "
                "length. Give a number of batches instead."
            )
        elif isinstance(interval, int):
            self.validate_every = interval
            across = trainer.check_val_every_n_epoch is None
            if not across and interval > self.train.length:
                raise MisconfigurationException(
                    f"val_check_interval={interval} is more than the {int(self.train.length)} batches of an "
                    "epoch, so validation would never run. Lower it, or set check_val_every_n_epoch=None to "
                    "count batches across epochs."
                )

    def _agree_on_length(self) -> None:
        """Every process takes part in every step, so the one with the fewest batches decides."""
        lengths = self.trainer.strategy.gather(self.train.length)
        if len(set(lengths)) > 1 and self.trainer.is_global_zero:
            warnings.warn(
                f"processes have {lengths} training batches: each epoch ends after {min(lengths)}. "
                "Give each as many to use them all.",
                stacklevel=2,
            )
        self.train.length = min(lengths)

    def _in_step(self, batches: Iterator[tuple[Any, bool]]) -> Iterator[tuple[Any, bool]]:
        """Without a length, ask before each batch whether all processes have one."""
        device, reduce = self.trainer.device, self.trainer.strategy.reduce
        goes_on = True
        while goes_on:
            batch, last = next(batches, (None, True))
            more = reduce(torch.tensor([batch is not None, not last], device=device).int(), "min")
            has, goes_on = more.tolist()
            if has:
                yield batch, not goes_on

    def reload_due(self) -> bool:
        every = self.trainer.reload_dataloaders_every_n_epochs
        return every > 0 and self.progress.epoch > 0 and self.progress.epoch % every == 0

    # -- training -------------------------------------------------------------------------------

    def start_training(self) -> bool:
        """Get data and steps ready and run `on_train_start`; False where there is nothing to train."""
        self.open_train_data()
        if not self.wants_epoch():
            return False
        check_monitors(self)
        self.zero_grad, self.backward = make_zero_grad(self), make_backward(self)
        self.clip = make_clip(self)
        self.training_step = _with_index(self.prepared.call("training_step"), self.module)
        self.trainer.stage = "train"
        self.metrics.enter("train", in_batch=False)
        for call in self.hooks.on_train_start:
            call()
        if self.position is not None:
            self.train.load_state_dict(self.position)
            self.position = None
            if self.progress.batch == 0:
                self.put_back_rng()
        return True

    def put_back_rng(self) -> None:
        """Restore random numbers: the last thing before training goes on."""
        if self.rng_to_restore is not None:
            set_rng_state(self.rng_to_restore)
            self.rng_to_restore = None

    def wants_epoch(self) -> bool:
        trainer, progress = self.trainer, self.progress
        if self.train.length == 0:
            return False
        if progress.batch:
            return True  # resumed in the middle of one: it has an end to come to
        self.stop_agreed(due=True)
        if self.stop_due():
            return False
        return trainer.max_epochs == -1 or progress.epoch < trainer.max_epochs

    def stop_due(self) -> bool:
        """Whether the steps are up, or somebody asked to stop and may."""
        asked = self.stop_agreed() and self.may_stop()
        return asked or self.progress.step >= self.step_limit

    def stop_agreed(self, due: bool = False) -> bool:
        """Whether all processes know that one of them was asked to stop, other than by a signal."""
        if not self.several:
            return self.trainer.should_stop
        asked = self.signals.received or int(self.trainer.should_stop)
        agreed = self.trainer.strategy.agree_to_stop(self.progress.batches, asked, due)
        if agreed > 1:  # no signal has the number 1 that `should_stop` has
            self.signals.received, self.signal_agreed = agreed, True
        return agreed == 1

    def may_stop(self) -> bool:
        """Whether `min_epochs` and `min_steps` are met."""
        trainer, progress = self.trainer, self.progress
        return progress.epoch >= (trainer.min_epochs or 0) and progress.step >= (
            trainer.min_steps or 0
        )

    def begin_epoch(self) -> Iterator[tuple[Any, bool]]:
        """Run `on_train_epoch_start` (not again in the middle of an epoch) and give the batches."""
        self.stopping = False
        if self.progress.batch == 0:
            if self.reload_due():
                self.open_train_data()
                self._eval_loaders.pop("validation", None)
                self._eval_iterables.pop("validation", None)
            self.metrics.enter("train", in_batch=False)
            for call in self.hooks.on_train_epoch_start:
                call()
        self.metrics.enter("train", in_batch=True)
        batches = self.train.begin(self.progress.epoch, self.progress.batch)
        self.put_back_rng()
        if self.several and self.train.length == math.inf:
            batches = self._in_step(batches)
        return iter(()) if self.stop_due() else batches

    def window(self, index: int, last: bool) -> tuple[bool, bool, int]:
        size = self.trainer.accumulate_grad_batches
        return window_of(index, last, size, self.train.length)

    def commit(self, outputs: Any, updated: bool) -> None:
        """After each batch: log if due, validate if due, save if asked, stop if asked."""
        trainer, progress = self.trainer, self.progress
        stop = self.stop_agreed() if self.several else trainer.should_stop
        if updated and (progress.step % trainer.log_every_n_steps == 0 or stop):
            self.log_step(outputs)
        if self.validates and self.validation_due():
            self.validate()
            self.stop_agreed(due=True)
        if updated and self.scheduler_configs:
            self.schedules.after_logging(progress.step)
        if self._unchecked:
            self._unchecked = False
            check_first_batch(self)
        if not self.mid_window:
            for checkpoint in self.checkpoints:
                if checkpoint.asked:
                    self.save()
                    break
            if self.signals.received is not None and self.signal_agreed:
                self.signals.obey(self)
        if trainer.should_stop or stop or progress.step >= self.step_limit:
            self.stopping = self.stop_due()

    def end_epoch(self) -> None:
        """`on_train_epoch_end`, epoch metrics, monitors, epoch schedulers, and a last commit."""
        metrics, progress = self.metrics, self.progress
        metrics.enter("train", in_batch=False)
        with metrics.closing("train"):
            for call in self.hooks.on_train_epoch_end:
                call()
        self._merge("train")
        values = metrics.take_epoch("train")
        for call in self.hooks.on_train_epoch_end_monitors:
            call()
        self.schedules.after_epoch(progress.epoch + 1)
        self.send(values, max(progress.step - 1, 0))
        progress.finish_epoch()
        self.mid_window = False
        self.save()
        self.deliver(wait=True)
        if self.signals.received is not None and self.signal_agreed:
            self.signals.obey(self)

    def save(self) -> None:
        """The state is whole: write the checkpoints that somebody asked for."""
        for checkpoint in self.checkpoints:
            checkpoint.decide(self.trainer, self.module)
        for checkpoint in self.checkpoints:
            checkpoint.commit(self.trainer, self.module)

    def end_training(self) -> None:
        for call in self.hooks.on_train_end:
            call()
        self.metrics.leave("after training")
        self.deliver(wait=True)
        self.trainer.stage = None

    def step_optimizer(
        self, optimizer: Optimizer, closure: Callable[[], Any] | None = None
    ) -> None:
        """What `optimizer.step()` does inside manual optimization and `optimizer_step` overrides."""
        if not self.module.automatic_optimization:
            self.prepared.unscale(optimizer)
            for call in self.hooks.on_before_optimizer_step:
                call(optimizer)
            self.prepared.step(optimizer, closure)
        elif closure is not None:
            self._step_with(optimizer, closure)
        else:
            self.prepared.step(optimizer)
        self.stepped = True

    def _step_with(self, optimizer: Optimizer, closure: Callable[[], Any]) -> None:
        """Step with a closure, in which hooks and clipping follow the gradients."""

        def whole() -> Any:
            loss = closure()
            if loss is not None:
                self.prepared.unscale(optimizer)
                for call in self.hooks.on_before_optimizer_step:
                    call(optimizer)
                self.clip(optimizer)
            return loss

        if not self.precision.scales:
            self.prepared.step(optimizer, whole)
        elif whole() is not None:  # a gradient scaler must see the gradients before the step
            self.prepared.step(optimizer)

    # -- logging --------------------------------------------------------------------------------

    def log_step(self, outputs: Any) -> None:
        values = self.metrics.take_step()
        if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
            values[LOSS] = outputs["loss"]  # travels along, so that looking at it costs no sync
        self.send(values, self.progress.step - 1)
        self.deliver(wait=False)

    def log_eval_step(self, stage: str, loader: int) -> None:
        """Values an evaluation step logged with `on_step`; their axis is the loader's own batch count."""
        if self.sanity:
            return
        key = f"{stage}/{loader}"
        seen = self.metrics.seen.get(key, 0)
        self.metrics.seen[key] = seen + 1
        self.send(self.metrics.take_step(stage, loader), seen)
        self.deliver(wait=False)

    def send(self, values: Mapping[str, Scalar], step: int) -> None:
        if values and not self.sanity:
            self.metrics.flush(values, {"step": step, "epoch": self.progress.epoch})

    def deliver(self, wait: bool) -> None:
        self.metrics.deliver(self._to_loggers, wait)

    def _to_loggers(self, header: dict[str, Any], values: dict[str, float]) -> None:
        if not math.isfinite(values.pop(LOSS, 0.0)) and not self.warned_not_finite:
            self.warned_not_finite = True
            warn_not_finite(header["step"])
        if not values:
            return
        record: dict[str, float] = {"epoch": header["epoch"], **values}
        step = int(record.pop("step", header["step"]))
        for logger in self.trainer.loggers:
            logger.attempt("log_metrics", record, step)

    # -- evaluation -----------------------------------------------------------------------------

    def validation_due(self) -> bool:
        trainer, progress = self.trainer, self.progress
        every_epochs = trainer.check_val_every_n_epoch
        if every_epochs is not None and (progress.epoch + 1) % every_epochs:
            return False
        if self.stop_agreed() and self.may_stop():
            return True
        if trainer.val_check_seconds is not None:
            return trainer.strategy.now() - self.last_validation >= trainer.val_check_seconds
        if self.validate_every == math.inf:
            return self.is_last_batch
        batches = progress.batches if every_epochs is None else progress.batch
        return batches % self.validate_every == 0

    def validate(self) -> None:
        """Validation inside training; the training epoch goes on afterwards."""
        trainer = self.trainer
        trainer.stage = "validation"
        if not self.mid_window:
            self.module.on_validation_model_zero_grad()
        batch = self.metrics.batch
        self.validated = True
        evaluate(self, "validation", trainer.limit_val_batches)
        self.metrics.enter("train", in_batch=True)
        self.metrics.batch = batch
        self.last_validation = trainer.strategy.now()
        trainer.stage = "train"

    @contextmanager
    def sanity_checking(self) -> Iterator[None]:
        self.sanity, self.trainer.stage = True, "sanity"
        try:
            yield
        finally:
            self.sanity, self.trainer.stage = False, None
            self.metrics.forget()

    def publish(self, stage: str, loaders: int) -> list[dict[str, float]]:
        """Close the metrics of an evaluation, log them, and give them per loader."""
        self._merge(stage)
        values = self.metrics.take_epoch(stage)
        last = (
            self.fn == "fit" and not self.mid_window
        )  # the step that was just taken counts from 0
        self.send(values, max(self.progress.step - last, 0))
        self.deliver(wait=self.fn != "fit")
        if self.fn == "fit":
            return []
        return [self.metrics.of_loader(position) for position in range(loaders)]

    def _merge(self, stage: str) -> None:
        if self.several:
            self.metrics.merge(stage, self.trainer.strategy.gather)

    def hook_group(self, stage: str) -> SimpleNamespace:
        """The hooks of an evaluation stage, under the names they share."""
        parts = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
        return SimpleNamespace(
            **{part: getattr(self.hooks, f"on_{stage}_{part}") for part in parts}
        )

    def in_order(self, outputs: list[Any]) -> list[Any]:
        """What all processes predicted, in the order of the data, on the first of them."""
        if self.shares is None:
            return outputs
        parts = self.trainer.strategy.gather_to_first(outputs)
        longest = max(map(len, parts))
        return [part[index] for index in range(longest) for part in parts if index < len(part)]

    def bind_step(self, stage: str, loaders: int) -> Callable[[Any, int, int], Any]:
        name = STEP_METHODS[stage]
        step = self.prepared.call(name)
        taken = _positional(getattr(self.module, name))
        if loaders > 1 and taken < 3:
            raise MisconfigurationException(
                f"there are {loaders} {stage} data loaders, but `{name}` does not take `dataloader_idx`. "
                f"Write `def {name}(self, batch, batch_idx, dataloader_idx=0)`."
            )
        if taken >= 3:
            return step
        if taken == 2:
            return lambda batch, index, loader: step(batch, index)
        return lambda batch, index, loader: step(batch)

    def no_grad(self, stage: str) -> Any:
        return no_grad(self.trainer.inference_mode and self.fn != "fit")

    def to_eval_mode(self, stage: str) -> dict[nn.Module, bool]:
        """Switch to evaluation mode; returns the flags to put back, so frozen parts stay frozen."""
        modes = {part: part.training for part in self.module.modules()}
        getattr(self.module, f"on_{stage}_model_eval")()
        return modes

    def to_train_mode(self, stage: str, modes: dict[nn.Module, bool]) -> None:
        name = f"on_{stage}_model_train"
        if overridden(name, self.module, LightningModule):
            getattr(self.module, name)()
            return
        for part, training in modes.items():
            part.training = training


def _with_index(step: Callable[..., Any], module: LightningModule) -> Callable[..., Any]:
    if _positional(module.training_step) >= 2:
        return step
    return lambda batch, index: step(batch)


def _positional(function: Callable[..., Any]) -> int:
    """How many positional arguments a bound step takes, at most three."""
    count = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return 3
        count += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return min(count, 3)


def make_transfer(run: Run) -> Callable[[Any, int], Any]:
    """The way of a batch to the device, through the hooks somebody overrides and no others."""
    device, precision = run.trainer.strategy.root_device, run.precision
    before = _data_hook(run, "on_before_batch_transfer")
    move = _data_hook(run, "transfer_batch_to_device")
    after = _data_hook(run, "on_after_batch_transfer")
    if not (before or move or after or precision.converts_inputs) and device.type == "cpu":
        return lambda batch, loader: batch

    def transfer(batch: Any, loader: int) -> Any:
        batch = before(batch, loader) if before else batch
        if precision.converts_inputs:
            batch = _convert(batch, precision.dtype)
        batch = move(batch, device, loader) if move else move_data_to_device(batch, device)
        return after(batch, loader) if after else batch

    return transfer


def _data_hook(run: Run, name: str) -> Callable[..., Any] | None:
    if run.datamodule is not None and overridden(name, run.datamodule, LightningDataModule):
        return getattr(run.datamodule, name)  # type: ignore[no-any-return] # a bound method
    if overridden(name, run.module, LightningModule):
        return getattr(run.module, name)  # type: ignore[no-any-return] # a bound method
    return None


def _convert(batch: Any, dtype: torch.dtype) -> Any:
    """Bring the floating point tensors of a batch to `dtype`."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return map_leaves(batch, convert)


def batches_of(loaders: list[Any], limit: int | float) -> list[float]:
    """How many batches of each evaluation loader run."""
    return [limited(loader_length(loader), limit, "limit_batches") for loader in loaders]
