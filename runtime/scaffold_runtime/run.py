"""Run: everything alive between set-up and teardown of one fit, validate, test or predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from scaffold_runtime.checkpoint.choose import Restore
from scaffold_runtime.checkpoint.snapshot import snapshot
from scaffold_runtime.checkpoint.state import changing
from scaffold_runtime.checks import check_monitors, warn_not_finite
from scaffold_runtime.data import LightningDataModule, NoData
from scaffold_runtime.entry import Scalar, detached_copy
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.feed import Feed
from scaffold_runtime.hooks import Callback, Checkpoint
from scaffold_runtime.loops.evaluate import evaluate
from scaffold_runtime.loops.step import make_backward, make_clip, make_zero_grad, training_step_of
from scaffold_runtime.metrics import Metrics
from scaffold_runtime.module import LightningModule
from scaffold_runtime.optim import LightningOptimizer, LRSchedulerConfig, Schedules
from scaffold_runtime.precision import Precision
from scaffold_runtime.progress import ALL, DONE, NEVER, VALIDATION, Progress
from scaffold_runtime.seed import rng_state, set_rng_state
from scaffold_runtime.signals import STOP, Signals
from scaffold_runtime.strategies.environments import slurm_of
from scaffold_runtime.strategies.strategy import Prepared
from scaffold_runtime.table import HookTable

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

LOSS = "training loss, not logged by name"
HOPELESS = 100  # epochs of a trial in which manual optimization may take no step


class Run:
    """The state the loops work on. `session.open_run` sets it up and tears it down."""

    hooks: HookTable
    prepared: Prepared
    precision: Precision
    schedules: Schedules
    training_step: Callable[..., Any]
    forward: Callable[[Any, int, bool], tuple[Tensor | None, Any]]
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
        self.trainer, self.fn, self.module = trainer, fn, module
        self.datamodule = NoData() if datamodule is None else datamodule
        self.feed = Feed(trainer, module, self.datamodule, given)
        self.progress: Progress = trainer.progress
        self.metrics: Metrics = trainer.metrics
        self.callbacks: list[Callback] = []
        self.checkpoints: list[Checkpoint] = []
        self.optimizers: list[Optimizer] = []
        self.manual_optimizers: list[LightningOptimizer] = []
        self.scheduler_configs: list[LRSchedulerConfig] = []
        self.restore = Restore()  # what to load from a checkpoint
        self.left_out: list[str] = []  # messages: what the last checkpoint could not store
        self.resumed = False
        self.chosen: str | None = None  # the checkpoint to start from, unless that is "last"
        self.signals = Signals(slurm_of(trainer.strategy.environment))
        self.position: dict[str, Any] | None = None  # in the training data, from the checkpoint
        self.rng_to_restore: dict[str, Any] | None = None
        self.validates = False
        self.validated = False
        self.before_validation: dict[str, Any] | None = None  # during it: a copy of what it changes
        self.evaluated = 0  # batches of the current evaluation
        self.torn = False  # whether it failed, perhaps in the middle of a step
        self.stopping = self.ended = False
        self.stepped = False
        self.loss_seen = False  # in the current accumulation window
        self.takes_closure = False  # whether the optimizer may evaluate the loss, as SAM does
        self.mid_window = False
        self.waiting: list[Optimizer] = []  # manual optimization: not stepped yet in this batch
        self.is_last_batch = False
        self.validate_every = math.inf
        self.last_validation = trainer.strategy.now()
        self.several = trainer.world_size > 1  # ranks
        self._unchecked = True
        self.warned_not_finite = False

    # -- training -------------------------------------------------------------------------------

    def start_training(self) -> bool:
        """Prepare data and step functions, run `on_train_start`; False if there is nothing to train."""
        if not self.resumed:  # the trainer's previous run may have failed within an epoch
            self.progress.batch, self.progress.pending = 0, DONE
        if not self.wants_epoch():
            self._print_nothing_left()
            return False
        self.validate_every = validation_interval(self.trainer, self.feed.train.length)
        if self.validates and self.validates_this_epoch():
            # A mistake in the validation data shows now, also without a sanity check.
            self.feed.lengths_of("validation")
        check_monitors(self)
        self.zero_grad, self.backward = make_zero_grad(self), make_backward(self)
        self.clip = make_clip(self)
        self.training_step = training_step_of(self)
        self.trainer.stage = "train"
        self.metrics.enter("train", in_batch=False)
        self.hooks.on_train_start()
        if self.position is not None:
            self.feed.train.load_state_dict(self.position)
            self.position = None
            if self.progress.batch == 0:
                self.put_back_rng()
        return True

    def _print_nothing_left(self) -> None:
        trainer, progress = self.trainer, self.progress
        where = "checkpoint" if self.resumed else "trainer"
        if progress.epoch or progress.step:
            trainer.print(
                f"Nothing is left to train: the {where} is at epoch {progress.epoch} and step {progress.step}, with "
                f"max_epochs={trainer.max_epochs} and max_steps={trainer.max_steps}. Raise them to train further."
            )

    def put_back_rng(self) -> None:
        """Restore the random state of the checkpoint, as the last thing before training continues."""
        if self.rng_to_restore is not None:
            set_rng_state(self.rng_to_restore)
            self.rng_to_restore = None

    def wants_epoch(self) -> bool:
        trainer, progress = self.trainer, self.progress
        if self.feed.train.length == 0:
            return False
        within = trainer.max_epochs == -1 or progress.epoch < trainer.max_epochs
        if progress.batch:
            return within  # resumed within an epoch, whose end is still to come
        self.stop_agreed(due=True)
        return within and not self.stop_due()

    def stop_due(self) -> bool:
        """Whether `max_steps` is reached, or a stop was requested and the minimum is met."""
        asked = self.stop_agreed() and self.may_stop()
        return asked or -1 < self.trainer.max_steps <= self.progress.step

    def stop_agreed(self, due: bool = False) -> bool:
        """Whether a stop was requested on any rank, other than by a signal, and all ranks know it."""
        if not self.several:
            return self.trainer.should_stop
        asked = STOP if self.trainer.should_stop else 0
        return self.signals.agree(self, self.progress.batches, asked, due) == STOP

    def may_stop(self) -> bool:
        """Whether `min_epochs` and `min_steps` are met."""
        trainer, progress = self.trainer, self.progress
        enough = progress.epoch >= (trainer.min_epochs or 0)
        return enough and progress.step >= (trainer.min_steps or 0)

    def begin_epoch(self) -> Iterator[tuple[Any, bool]]:
        """Run `on_train_epoch_start` (unless resumed within the epoch) and return the batches."""
        self.stopping = False
        if self.progress.batch == 0:
            self.feed.renew_if_due(self.progress.epoch)
            self.validate_every = validation_interval(self.trainer, self.feed.train.length)
            self.metrics.enter("train", in_batch=False)
            self.hooks.on_train_epoch_start()
        self.metrics.enter("train", in_batch=True)
        batches = self.feed.train.begin(self.progress.epoch, self.progress.batch)
        self.put_back_rng()
        if self.several and not self.feed.train.counted:
            batches = self.feed.in_step(batches)
        if self.progress.pending in (ALL, VALIDATION):
            self._commit_again()
        return iter(()) if self.stopping or self.stop_due() else batches

    def _commit_again(self) -> None:
        """The checkpoint was saved within the commit of its last batch: finish that commit."""
        self.is_last_batch = self.feed.train.over
        self.mid_window = not self.window(self.progress.batch - 1, self.is_last_batch)[1]
        if self.progress.pending == ALL:
            for checkpoint in self.checkpoints:  # their hooks run last, so not yet for this batch
                checkpoint.on_train_batch_end(
                    self.trainer, self.module, None, None, self.progress.batch - 1
                )
        self.commit(None, bool(self.progress.updated))

    def window(self, index: int, last: bool) -> tuple[bool, bool, int]:
        """Whether batch `index` opens and closes an accumulation window, and how many batches the window has.

        The last window of an epoch may be short; gradients are divided by its true size. Without a known or limited
        epoch length, they are divided by the full size.
        """
        size, length = self.trainer.accumulate_grad_batches, self.feed.train.length
        size = 1 if size == "auto" else size
        short = length != math.inf and index >= length - length % size
        closes = last or (index + 1) % size == 0
        return index % size == 0, closes, int(length % size) if short else size

    def commit(self, outputs: Any, updated: bool) -> None:
        """After each batch: log if due, validate if due, save if requested, stop if requested."""
        trainer, progress = self.trainer, self.progress
        stop = self.stop_agreed() if self.several else trainer.should_stop
        due = progress.step % trainer.log_every_n_steps == 0 or stop
        if updated and due and progress.pending == ALL:
            self.log_step(outputs)
        if progress.pending == VALIDATION or (self.validates and self.validation_due()):
            self.validate()
            self.stop_agreed(due=True)
        if updated and self.scheduler_configs:
            self.schedules.after_logging(progress.step)
        if self._unchecked:
            self._unchecked = False
            check_monitors(self, trained=True)
        progress.pending = DONE
        if not self.mid_window:
            for checkpoint in self.checkpoints:
                if checkpoint.asked:
                    self.save()
                    break
            if self.signals.received or self.signals.agreed:
                self.signals.leave_if_asked(self)
        if trainer.should_stop or stop or -1 < trainer.max_steps <= progress.step:
            self.stopping = self.stop_due()

    def end_epoch(self, outputs: Any) -> None:
        """`on_train_epoch_end`, epoch metrics, monitors, epoch schedulers, and a last commit. `outputs` are those of
        the last batch."""
        metrics, progress = self.metrics, self.progress
        metrics.enter("train", in_batch=False)
        self.settle("train")
        with metrics.closing("train"):
            self.hooks.on_train_epoch_end()
        self._merge("train", False)
        values = metrics.take_epoch("train")
        self.hooks.on_train_epoch_end_monitors()
        self.schedules.after_epoch(progress.epoch + 1)
        self.send(values, max(progress.step - 1, 0), outputs)
        hopeless = self.module.automatic_optimization or progress.epoch >= HOPELESS
        if self.trainer.tries and hopeless and progress.batches and not progress.step:
            raise StepError(
                f"training took no step in {progress.epoch + 1} epochs, so there is nothing to try anything with."
            )
        self.decide()  # before the epoch counter changes, which subclasses may read
        progress.finish_epoch()
        self.mid_window = False
        self.save()
        self.deliver(wait=True)
        self.signals.leave_if_asked(self)

    def save(self) -> None:
        """Write the requested checkpoints. Called only when the state is complete."""
        self.decide()
        for checkpoint in self.checkpoints:
            self.write(checkpoint)

    def decide(self) -> None:
        for checkpoint in self.checkpoints:
            checkpoint.decide(self.trainer, self.module)

    def write(self, checkpoint: Checkpoint) -> None:
        checkpoint.commit(self.trainer, self.module)

    def check_may_skip(self) -> None:
        """Called when the loader gave None.

        Raises:
            StepError: if other ranks may wait for this one's gradients.
        """
        if self.several:
            raise StepError(
                "the training loader gave None instead of a batch. A batch cannot be skipped in one process while "
                "others wait for its gradients: give another one."
            )

    def check_all_end_epoch(self) -> None:
        """Called when `on_train_batch_start` returned -1.

        Raises:
            StepError: if other ranks continue the epoch, and would wait for this one.
        """
        strategy, progress = self.trainer.strategy, self.progress
        if not strategy.all_reach(f"end of {progress.epoch} at {progress.batch}"):
            raise StepError(
                f"`on_train_batch_start` returned -1 at batch {progress.batch} in process {strategy.global_rank} and "
                "not in all: return the same in each, as of `self.trainer.strategy.broadcast(value)`."
            )

    def end_training(self) -> None:
        for checkpoint in self.checkpoints:
            checkpoint.conclude(self.trainer, self.module)
        self.ended = True
        self.metrics.leave("after training")
        self.hooks.on_train_end()
        self.deliver(wait=True)
        self._print_if_never_logged()
        self.trainer.stage = None

    def _print_if_never_logged(self) -> None:
        trainer, steps, names = self.trainer, self.progress.step, self.metrics.of_steps_only()
        none_due = 0 < steps < trainer.log_every_n_steps < NEVER and not trainer.should_stop
        if none_due and names and trainer.loggers:
            trainer.print(
                f"{names[0]!r} is logged at steps only, and the {steps} steps of this training are fewer than "
                f"log_every_n_steps={trainer.log_every_n_steps}: none was logged. Lower it, or log with on_epoch=True."
            )

    # -- logging --------------------------------------------------------------------------------

    def log_step(self, outputs: Any) -> None:
        self.send(self.metrics.take_step(), self.progress.step - 1, outputs)
        self.deliver(wait=False)

    def log_eval_step(self, stage: str, loader: int) -> None:
        """Send what an evaluation step logged with `on_step`; the x axis is the loader's own batch count."""
        if self.trainer.sanity_checking:
            return
        key = f"{stage}/{loader}"
        seen = self.metrics.seen.get(key, 0)
        self.metrics.seen[key] = seen + 1
        self.send(self.metrics.take_step(stage, loader), seen)
        self.deliver(wait=False)

    def send(self, values: Mapping[str, Scalar], step: int, outputs: Any = None) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1 and not self.trainer.tries:
            # Copied to the host with the values, so checking that it is finite costs no extra sync.
            values = {**values, LOSS: loss.detach()}
        if values and not self.trainer.sanity_checking:
            self.metrics.flush(values, {"step": step, "epoch": self.progress.epoch})
            kept: dict[str, Any] = {k: detached_copy(v) for k, v in values.items() if k != LOSS}
            self.metrics.logged_values.update(kept)

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
            logger.attempt("log_metrics", metrics=record, step=step)

    # -- evaluation -----------------------------------------------------------------------------

    def validates_this_epoch(self) -> bool:
        return (self.progress.epoch + 1) % (self.trainer.check_val_every_n_epoch or 1) == 0

    def validation_due(self) -> bool:
        trainer, progress = self.trainer, self.progress
        if not self.validates_this_epoch():
            return False
        if self.stop_agreed() and self.may_stop():
            return True
        if trainer.val_check_seconds is not None:
            return trainer.strategy.now() - self.last_validation >= trainer.val_check_seconds
        if self.validate_every == math.inf:
            return self.is_last_batch
        across = trainer.check_val_every_n_epoch is None
        batches = progress.batches if across else progress.batch
        return batches % self.validate_every == 0

    def validate(self) -> None:
        """Validation inside training; the training epoch continues afterwards."""
        trainer = self.trainer
        trainer.stage = "validation"
        if not self.mid_window:
            self.module.on_validation_model_zero_grad()
        batch = self.metrics.batch
        self.validated = True
        self.progress.pending = VALIDATION
        self.before_validation = snapshot({**changing(self), "rng": rng_state()}, None)
        evaluate(self, "validation")
        self.before_validation = None
        self.metrics.enter("train", in_batch=True)
        self.metrics.batch = batch
        self.last_validation = trainer.strategy.now()
        trainer.stage = "train"

    def settle(self, stage: str) -> None:
        """After the last step: merge step values over all ranks before epoch hooks, since a hook that reads them may
        exist on one rank only (a progress bar)."""
        self._merge(stage, True)
        self.metrics.compute(stage)

    def publish(self, stage: str, loaders: int) -> list[dict[str, float]]:
        """Close the metrics of an evaluation, log them, and return them per loader (in a fit: nothing)."""
        self._merge(stage, False)
        values = self.metrics.take_epoch(stage)
        # In a fit, the index of the step just taken.
        counted = self.fn == "fit" and not self.mid_window
        self.send(values, max(self.progress.step - counted, 0))
        self.deliver(wait=self.fn != "fit")
        if self.fn == "fit":
            return []
        return [self.metrics.of_loader(position) for position in range(loaders)]

    def _merge(self, stage: str, in_batch: bool) -> None:
        if self.several:
            self.metrics.merge(stage, self.trainer.strategy.gather, in_batch)


def validation_interval(trainer: Trainer, length: float) -> float:
    """After how many batches validation is due. Infinity: at the end of an epoch of unknown `length`, or never.

    Raises:
        MisconfigurationException: if `val_check_interval` does not fit an epoch of `length` batches.
    """
    interval = trainer.val_check_interval
    if trainer.limit_val_batches == 0:
        return math.inf
    if isinstance(interval, int):
        if interval > length and trainer.check_val_every_n_epoch is not None:
            raise MisconfigurationException(
                f"val_check_interval={interval} is more than the {int(length)} batches of an "
                "epoch, so validation would never run. Lower it, or set check_val_every_n_epoch=None to "
                "count batches across epochs."
            )
        return interval
    if length != math.inf:
        return max(1, int(length * interval))
    if interval != 1.0:
        raise MisconfigurationException(
            f"val_check_interval={interval} is a fraction of an epoch, but the training loader has no "
            "length. Give a number of batches instead."
        )
    return math.inf
