"""A session opens a run, sets it up in the documented order, and takes it down whatever happens."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import LBFGS, Optimizer

from scaffold_runtime.checkpoint.load import read_for_run
from scaffold_runtime.checkpoint.state import restore_before_fit, restore_engine, restore_objects
from scaffold_runtime.checks import check_run
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback, Checkpoint, ask, overridden
from scaffold_runtime.hparams import hparams_to_log
from scaffold_runtime.loggers.silent import SilentLogger
from scaffold_runtime.loops.step import step_optimizer
from scaffold_runtime.module import LightningModule
from scaffold_runtime.optim import LightningOptimizer, Schedules, configure, takes_closure
from scaffold_runtime.run import Run
from scaffold_runtime.sharding import Shares
from scaffold_runtime.strategies.strategy import beside_weights
from scaffold_runtime.table import build_table, check_hooks
from scaffold_runtime.transfer import make_transfer

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


@contextmanager
def open_run(run: Run, ckpt_path: str | None) -> Iterator[None]:
    """Set up a run, and tear it down after the block; on an exception notify hooks, loggers and other ranks first."""
    _check_not_nested(run)
    trainer = run.trainer
    trainer.open(run)
    try:
        trainer.strategy.open()
        _set_up(run, ckpt_path)
        yield
        _tear_down(run)
        trainer.strategy.close()
    except BaseException as error:
        _fail(run, error)
        raise
    else:
        _attempt(trainer.strategy.release, run.module, run.optimizers)
    finally:
        _close(run)


def _check_not_nested(run: Run) -> None:
    """Refuse to start a run while its trainer or module is in another one, which could no longer log."""
    trainer, module = run.trainer, run.module
    others = [each._run for each in (trainer, module._trainer) if each is not None]
    for outer in (other for other in others if other is not None and not other.ended):
        if trainer._run is outer or outer.module is module:
            raise MisconfigurationException(
                f"trainer.{run.fn}() was called within trainer.{outer.fn}(): call it when that has returned, or in a "
                "fit from `on_train_end` on."
            )


@contextmanager
def open_trial(trial: Trainer, outer: Run) -> Iterator[Run]:
    """A run inside a run: the same function, module, data and set-up, but the counters, metrics and callbacks
    of the trainer `trial`, and new optimizers. The outer run continues unaffected."""
    run = Run(trial, outer.fn, outer.module, outer.datamodule, outer.feed.given)
    trial.open(run)
    run.callbacks, run.validates = trial.callbacks, outer.validates
    run.feed.shares = outer.feed.shares
    run.precision, run.prepared, run.to_device = outer.precision, outer.prepared, outer.to_device
    _attach_parts(run)
    try:
        run.hooks = build_table(run)
        if run.fn == "fit":
            make_optimizers(run)
        yield run
    finally:
        try:
            _close(run)
        finally:
            _attach_parts(outer)


def _attach_parts(run: Run) -> None:
    """Attach the module, the data module and the callbacks' `log` to `run`."""
    run.module.trainer = run.trainer
    run.module._metrics = None if run.trainer.barebones else run.metrics  # None: `log` does nothing
    run.datamodule.trainer = run.trainer
    for callback in run.callbacks:
        callback.log, callback.log_dict = run.module.log, run.module.log_dict


def _set_up(run: Run, ckpt_path: str | None) -> None:
    trainer, module, datamodule = run.trainer, run.module, run.datamodule
    run.metrics.reset()
    run.metrics.leave("during set-up")
    module.trainer = trainer
    _set_callbacks(run, _callbacks(trainer, module))
    check_run(run)
    checkpoint = read_for_run(run, ckpt_path)  # first of all: it decides on the run folder
    _set_up_ranks(run, checkpoint)
    run.hooks = build_table(run)
    check_hooks(datamodule)
    trainer.strategy.first_per_node(lambda: _prepare_data(run))
    ask(datamodule, "setup", run.fn)
    known = list(run.callbacks)
    run.hooks.setup(run.fn)
    _set_up_added_callbacks(run, known)
    run.hooks = build_table(run)
    run.precision = trainer.precision_plugin
    with run.precision.init_context():
        ask(module, "configure_model")
    for callback in run.callbacks:
        callback._model_made(trainer, module)
    module.zero_grad()  # gradients of an earlier run; those of a checkpoint are restored later
    run.precision.convert_module(module)  # before loading, which would round to another dtype
    if checkpoint is not None and run.restore.resumes:
        restore_objects(run, checkpoint)
    elif checkpoint is not None:
        run.restore.weights(run, checkpoint)
    if trainer.sync_batchnorm:
        trainer.strategy.sync_batchnorm(module)
    trainer.strategy.place(module, run.precision)
    if run.fn == "fit":
        make_optimizers(run)
    run.prepared = trainer.strategy.prepare(module, run.optimizers, run.precision)
    if checkpoint is not None and run.restore.resumes:
        restore_engine(run, checkpoint)
    run.to_device = make_transfer(run)
    trainer.profiler.attach(run)
    if run.fn == "fit":
        run.hooks.on_fit_start()
    _log_hyperparameters(run)
    if checkpoint is None or run.fn != "fit":
        return
    if run.restore.resumes:
        restore_before_fit(run, checkpoint)
    elif run.restore.what == "optimizers":
        run.restore.optimizers(run, checkpoint)
    run.restore.learning_rate(run)


def _prepare_data(run: Run) -> None:
    ask(run.datamodule, "prepare_data")
    ask(run.module, "prepare_data")


def _set_up_ranks(run: Run, checkpoint: dict[str, Any] | None) -> None:
    """Give each rank its shard of the data. Rank 0 decides on folders and logs; the others know the folders and
    are silent."""
    trainer, first = run.trainer, run.trainer.is_global_zero
    if trainer.world_size == 1:
        return
    resumed = checkpoint if checkpoint is not None and run.restore.resumes else {}
    seed = resumed.get("shuffle_seed", os.environ.get("PL_GLOBAL_SEED", 0))
    seed = trainer.strategy.broadcast(int(seed))
    if trainer.use_distributed_sampler:
        run.feed.shares = Shares(trainer.global_rank, trainer.world_size, seed)
    run.metrics.reduce, run.metrics.first = trainer.strategy.reduce, first
    places = [SilentLogger.places_of(logger) for logger in trainer.loggers] if first else None
    places = trainer.strategy.broadcast(places)
    if not first:
        trainer.loggers = [SilentLogger(place) for place in places or ()]
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.disable()


def _set_callbacks(run: Run, callbacks: list[Callback]) -> None:
    run.checkpoints = [c for c in callbacks if isinstance(c, Checkpoint)]
    others = [c for c in callbacks if not isinstance(c, Checkpoint)]
    run.callbacks = run.trainer.callbacks = [*others, *run.checkpoints]
    _attach_parts(run)


def _set_up_added_callbacks(run: Run, known: list[Callback]) -> None:
    """Set up callbacks that others added to `trainer.callbacks` in their `setup`."""
    callbacks = run.trainer.callbacks
    for callback in callbacks:  # each may add more
        if callback not in known:
            callback.setup(run.trainer, run.module, run.fn)
    _set_callbacks(run, callbacks)


def _callbacks(trainer: Trainer, module: LightningModule) -> list[Callback]:
    """The trainer's callbacks and those of `configure_callbacks`, which replace others of the same or a base type."""
    brought = ask(module, "configure_callbacks") or []
    brought = [brought] if isinstance(brought, Callback) else list(brought)
    for other in (each for each in brought if not isinstance(each, Callback)):
        raise MisconfigurationException(
            f"{type(module).__name__}.configure_callbacks returned {other!r}, which is not a Callback."
        )
    bases = {base for c in brought for base in type(c).__mro__} - set(Callback.__mro__)
    kept = [c for c in trainer.callbacks if type(c) not in bases or c in brought]
    return kept + [c for c in brought if c not in kept]


def take_optimizers(run: Run, optimizers: list[Optimizer]) -> None:
    """Train with these optimizers, from the next batch on.

    Raises:
        MisconfigurationException: if they cannot replace those that the run started with.
    """
    if run.optimizers:
        _check_successors(run, optimizers)
    beside_weights(optimizers)
    run.optimizers = optimizers
    if run.module.automatic_optimization and overridden(
        "optimizer_step", run.module, LightningModule
    ):
        for optimizer in optimizers:  # the override may step the optimizer, not our wrapper
            optimizer.register_step_post_hook(lambda *_: setattr(run, "stepped", True))
    run.takes_closure = bool(optimizers) and takes_closure(optimizers[0], run.precision)
    run.manual_optimizers = [
        LightningOptimizer(optimizer, partial(step_optimizer, run), run.module)
        for optimizer in optimizers
    ]


def _check_successors(run: Run, optimizers: list[Optimizer]) -> None:
    """Refuse optimizers that do not suit the chosen step function, or the strategy's engine."""
    reason = ""
    if run.trainer.strategy.owns_state:
        reason = f"{type(run.trainer.strategy).__name__} has built them into its engine"
    elif not optimizers or not all(isinstance(each, Optimizer) for each in optimizers):
        reason = f"{optimizers!r} is no list of optimizers"
    elif run.module.automatic_optimization and len(optimizers) > 1:
        reason = "several need manual optimization"
    elif isinstance(optimizers[0], LBFGS) != isinstance(run.optimizers[0], LBFGS):
        reason = "a step with LBFGS is another one than a step without"
    if reason:
        raise MisconfigurationException(
            f"the optimizers cannot be replaced within this fit: {reason}. End it, and fit again."
        )


def make_optimizers(run: Run) -> None:
    """Ask the module for optimizers and schedulers, and train with them."""
    optimizers, run.scheduler_configs = configure(run.module)
    take_optimizers(run, optimizers)
    own = overridden("lr_scheduler_step", run.module, LightningModule)
    run.schedules = Schedules(
        run.scheduler_configs if run.module.automatic_optimization else [],
        run.module.lr_scheduler_step if own else None,
        run.metrics.callback_metrics,
        run.metrics.reduce,
    )


def _log_hyperparameters(run: Run) -> None:
    logged = run.trainer.enable_autolog_hparams
    hparams = hparams_to_log(run.module, run.datamodule) if logged else {}
    for logger in run.trainer.loggers:
        if hparams:
            logger.log_hyperparams(hparams)
        logger.log_graph(run.module)
        logger.save()


def _tear_down(run: Run) -> None:
    if run.fn == "fit":
        run.hooks.on_fit_end()
    ask(run.datamodule, "teardown", run.fn)
    run.hooks.teardown(run.fn)
    for logger in run.trainer.loggers:
        logger.attempt("finalize", "success")
    run.trainer.checkpoint_io.teardown()


def _fail(run: Run, error: BaseException) -> None:
    """Notify hooks, loggers and other ranks of `error`. Raises the reason instead, if another rank failed first."""
    run.torn = run.ended = run.trainer.interrupted = True
    reason = run.trainer.strategy.fail(error)
    told = run.hooks.on_exception if hasattr(run, "hooks") else ()
    for call in (*told, run.datamodule.on_exception):
        _attempt(call, reason)
    _attempt(run.deliver, True)
    for logger in run.trainer.loggers:
        _attempt(logger.attempt, "finalize", "failed")
    _attempt(run.trainer.checkpoint_io.teardown)
    with contextlib.suppress(Exception):  # what failed may be the device
        run.trainer.strategy.release(run.module, run.optimizers)
    if reason is not error:
        raise reason from None


def _attempt(call: Callable[..., Any], *arguments: Any) -> None:
    """Call while a run ends: an exception is printed and not raised, so that it hides no earlier one."""
    try:
        call(*arguments)
    except Exception as failure:
        failure.__suppress_context__ = True  # the earlier error is raised by itself
        traceback.print_exception(failure)


def _close(run: Run) -> None:
    run.trainer.close(run)
    run.trainer.profiler.detach(run)
    run.metrics.leave("outside of a run")
    run.module._metrics = None
    for callback in run.callbacks:
        vars(callback).pop("log", None)
        vars(callback).pop("log_dict", None)
    with contextlib.suppress(Exception):  # an error of a worker no longer matters
        run.feed.close()
