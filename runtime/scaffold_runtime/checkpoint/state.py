"""The one list of the state of a run: only this module gathers and restores it.

Keys are Lightning's (`state_dict`, `epoch`, `global_step`, `optimizer_states`, `lr_schedulers`,
`callbacks`, `hyper_parameters`, ...), plus `progress`, `precision`, `transient`, `metrics`, `data`,
`loggers` and `rng`, and `ranks` where several processes saved it together.
"""

from __future__ import annotations

from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from scaffold_runtime.checkpoint.engine import ENGINE, with_weights
from scaffold_runtime.checkpoint.folder import assembled, divided
from scaffold_runtime.checkpoint.ranks import gather_own
from scaffold_runtime.checkpoint.transient import (
    fill_buffers,
    metric_parts,
    plain_name,
    restore_transient,
    transient,
)
from scaffold_runtime.data import LightningDataModule, move_data_to_device
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import CheckpointError, warn
from scaffold_runtime.hooks import overridden
from scaffold_runtime.optim import parameters_of
from scaffold_runtime.plain import to_plain
from scaffold_runtime.progress import UNDER_WAY
from scaffold_runtime.seed import rng_state

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

LIGHTNING_VERSION = "2.6.0"  # Lightning reads it; 2.6 has these keys


def collect(run: Run, weights_only: bool = False) -> dict[str, Any]:
    """Everything a checkpoint holds, as tensors and plain values. Anything else is left out, and noted for
    `check_stored`.
    """
    from scaffold_runtime import __version__

    trainer, module, datamodule = run.trainer, run.module, run.datamodule
    train, owned = run.feed.opened, trainer.strategy.owns_state
    state: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": run.progress.step,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "scaffold_runtime_version": __version__,
        "state_dict": {} if owned else _weights(module),
    }
    if not weights_only:
        state |= {
            "progress": run.progress.state_dict(),
            "optimizer_states": [] if owned else [o.state_dict() for o in run.optimizers],
            "lr_schedulers": [_state_of(c.scheduler) for c in run.scheduler_configs],
            "precision": run.precision.state_dict(),
            "data": train.state_dict(run.progress.batch > 0) if train is not None else {},
        }
        lost = run.mid_window and trainer.strategy.divides  # sharded gradients of a window
        if run.feed.shares is not None:
            state["shuffle_seed"] = run.feed.shares.seed
        if run.torn or run.progress.pending == UNDER_WAY or lost:
            state["torn"] = True
        if not lost and (gradients := _gradients(run)):
            state["gradients"] = gradients
        state |= run.before_validation or changing(run)
    state |= _hyperparameters("", module) | _hyperparameters("datamodule_", datamodule)
    if overridden("state_dict", datamodule, LightningDataModule):
        state[type(datamodule).__qualname__] = datamodule.state_dict()
    run.hooks.on_save_checkpoint(state)
    if not weights_only and not run.before_validation:
        state["rng"] = rng_state()  # after hooks, which may draw random numbers
    run.left_out = []
    plain = to_plain(state, "", run.left_out)
    if trainer.strategy.sharded:
        return divided(trainer.strategy, plain)  # type: ignore[no-any-return] # of the same kind
    plain = trainer.strategy.whole(plain)
    return plain if weights_only else gather_own(trainer, plain)


def check_stored(run: Run, path: Any) -> None:
    """Raise if something was left out of the checkpoint just written, whose other parts are safe on disk.

    Raises:
        CheckpointError: naming the first part that cannot be stored safely.
    """
    if run.left_out:
        raise CheckpointError(
            f"{run.left_out[0]} All else was saved to {path}, and training can resume from there."
        )


def changing(run: Run) -> dict[str, Any]:
    """The state that validation changes, except random state. A checkpoint saved during validation has a copy of it
    from before."""
    module = run.module
    return {
        "callbacks": {c.state_key: kept for c in run.callbacks if (kept := c.state_dict())},
        "transient": transient(module, run.several),
        "metrics": run.metrics.state_dict({id(m): n for n, m in metric_parts(module).items()}),
        "loggers": _logger_states(run),
    }


def _gradients(run: Run) -> dict[str, Any]:
    """Gradients accumulated so far, which a later batch steps with."""
    waiting = run.optimizers if run.mid_window else run.waiting
    theirs = {id(parameter) for each in waiting for parameter in parameters_of(each)}
    named = run.module.named_parameters()
    return {plain_name(n): p.grad for n, p in named if p.grad is not None and id(p) in theirs}


def _weights(module: Any) -> dict[str, Any]:
    return {plain_name(name): value for name, value in module.state_dict().items()}


def _logger_states(run: Run) -> list[dict[str, Any]]:
    """Write all logs first: a checkpoint must not count values as logged that are not in the logs yet."""
    run.deliver(wait=True)
    for logger in run.trainer.loggers:
        logger.attempt("save")
    return [logger.state_dict() for logger in run.trainer.loggers]


def _hyperparameters(prefix: str, owner: Any) -> dict[str, Any]:
    if not owner.hparams:
        return {}
    return {f"{prefix}{name}": kept for name, kept in owner.hparams_to_save().items()}


def restore_objects(run: Run, checkpoint: dict[str, Any]) -> None:
    """Weights, data module and callbacks: what is restored before the model reaches its device."""
    run.hooks.on_load_checkpoint(checkpoint)
    if ENGINE not in checkpoint or not run.trainer.strategy.reads_engine(run.fn):
        restore_weights(run, checkpoint)
    datamodule = run.datamodule
    if type(datamodule).__qualname__ in checkpoint:
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
    run.hooks.on_load_checkpoint_callbacks(checkpoint)
    if run.fn != "fit":
        return
    states = checkpoint.get("callbacks", {})
    for callback in run.callbacks:
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
    absent = {key for key, state in states.items() if state} - {c.state_key for c in run.callbacks}
    # Training does not depend on which files a ModelCheckpoint kept.
    absent = {key for key in absent if not key.startswith("ModelCheckpoint")}
    if absent and run.trainer.is_global_zero:
        warn(
            f"the checkpoint holds the state of callbacks that are not there now: {', '.join(sorted(absent))}. "
            "Add them to resume exactly."
        )


def restore_engine(run: Run, checkpoint: dict[str, Any]) -> None:
    """Load weights and optimizers that an engine (DeepSpeed) saved itself.

    Raises:
        CheckpointError: if the run trains with such an engine and none saved the checkpoint, or the other way
            round.
    """
    strategy, fits = run.trainer.strategy, run.fn == "fit"
    if ENGINE in checkpoint:
        if fits or strategy.reads_engine(run.fn):
            strategy.load_engine(Path(checkpoint[ENGINE]), fits)
    elif fits and strategy.owns_state and run.optimizers:
        raise CheckpointError(
            "the checkpoint was not saved by DeepSpeed, which cannot divide its optimizer states. Create the model "
            "with `load_from_checkpoint`, and start a new fit."
        )


def restore_weights(run: Run, checkpoint: dict[str, Any], strict: bool | None = None) -> None:
    """Load weights into the module of a run, sharded or not.

    Raises:
        CheckpointError: if names or shapes do not fit.
    """
    strategy, module = run.trainer.strategy, run.module
    if strategy.loads(module):
        strategy.scatter(checkpoint.get("state_dict", {}), module.state_dict())
        with strategy.filling(module):
            load_weights(module, checkpoint, strict)


def load_weights(module: Any, checkpoint: dict[str, Any], strict: bool | None = None) -> None:
    """Load `checkpoint["state_dict"]` into `module`, compiled or not.

    Raises:
        CheckpointError: if names or shapes do not fit.
    """
    checkpoint = with_weights(checkpoint)
    if "state_dict" not in checkpoint:
        raise CheckpointError(
            f"the checkpoint has no `state_dict`; its keys are {', '.join(list(map(str, checkpoint))[:8])}."
            f"{' It holds weights only: use `load_state_dict(torch.load(path))`.' * _of_weights(checkpoint)}"
        )
    strict = module.strict_loading if strict is None else strict
    fill_buffers(module, checkpoint["state_dict"])
    plain_names = {plain_name(name): name for name in module.state_dict()}
    given = checkpoint["state_dict"].items()
    weights = {plain_names.get(plain_name(name), name): value for name, value in given}
    materialize(module, torch.device("cpu"), filled=weights)
    try:
        module.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in the checkpoint do not fit {type(module).__name__}: {error}"
        ) from error


def _of_weights(checkpoint: dict[str, Any]) -> bool:
    """Whether this is a bare `module.state_dict()`."""
    return bool(checkpoint) and all(isinstance(value, Tensor) for value in checkpoint.values())


def restore_before_fit(run: Run, checkpoint: dict[str, Any]) -> None:
    """Restore optimizers, schedulers, precision, progress, metrics and loggers. The data position and random state
    are kept until training continues.

    Raises:
        CheckpointError: if the checkpoint has another number of optimizers or schedulers, or only weights.
    """
    if checkpoint.get("optimizer_states") is None:
        raise CheckpointError(
            "the checkpoint holds weights only, so training cannot be resumed from it. "
            "Take them into a new run by restore='weights'."
        )
    if ENGINE not in checkpoint:
        restore_optimizers(run, checkpoint["optimizer_states"])
    states = checkpoint.get("lr_schedulers", [])
    _check_number(states, run.scheduler_configs, "learning rate scheduler(s)")
    for config, state in zip(run.scheduler_configs, states, strict=bool(states)):
        config.scheduler.load_state_dict(_extended(config.scheduler, state))
    if checkpoint.get("precision"):
        run.precision.load_state_dict(checkpoint["precision"])
    progress, begun = _progress(checkpoint)
    run.progress.load_state_dict(progress)
    if run.progress.step:
        for optimizer in run.optimizers:  # it stepped in the saved run: torch warns otherwise
            vars(optimizer)["_opt_called"] = True
    device = run.trainer.device
    restore_transient(run.module, move_data_to_device(checkpoint.get("transient"), device))
    gradients = checkpoint.get("gradients") or {}
    for name, parameter in run.module.named_parameters():
        if (gradient := gradients.get(plain_name(name))) is not None:
            parameter.grad = gradient.to(parameter.device, copy=True)
    if gradients and not run.module.automatic_optimization:
        run.waiting = list(run.optimizers)
    if "metrics" in checkpoint:
        kept = move_data_to_device(checkpoint["metrics"], device)
        run.metrics.load_state_dict(kept, metric_parts(run.module), run.validates)
    for logger, state in zip(run.trainer.loggers, checkpoint.get("loggers", []), strict=False):
        logger.load_state_dict(state)
    run.resumed, run.position = True, checkpoint.get("data", {}) if begun else {}
    run.rng_to_restore = checkpoint.get("rng")


def restore_optimizers(run: Run, states: list[dict[str, Any]]) -> None:
    _check_number(states, run.optimizers, "optimizer(s)")
    for optimizer, state in zip(run.optimizers, states, strict=bool(states)):
        # Shard the state before it is copied to the device, which may have no room for all of it.
        groups, kept = state.get("param_groups", ()), state.get("state", {})
        numbers = [number for group in groups for number in group["params"]]
        for number, parameter in zip(numbers, parameters_of(optimizer), strict=False):
            own = kept.get(number, {})
            own.update(assembled(own, Path(run.trainer.ckpt_path or "")))
            run.trainer.strategy.scatter(own, parameter)
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise CheckpointError(
                f"the optimizer state in the checkpoint does not fit {type(optimizer).__name__}: {error}."
            ) from error
        for number, parameter in zip(numbers, parameters_of(optimizer), strict=False):
            _keep_format(kept.get(number, {}), optimizer.state.get(parameter, {}))


def _keep_format(saved: dict[str, Any], loaded: dict[str, Any]) -> None:
    """torch casts all optimizer state to the dtype of the weights; give scalars the dtype they were saved with."""
    for name, value in saved.items():
        if isinstance(value, Tensor) and not value.ndim and value.dtype != loaded[name].dtype:
            loaded[name] = value.to(loaded[name].device, copy=True)


def _state_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's state without functions, which its `__init__` sets (torch 2.9's SWALR has one in its state)."""
    return {key: part for key, part in scheduler.state_dict().items() if not isroutine(part)}


def _extended(scheduler: Any, state: dict[str, Any]) -> dict[str, Any]:
    """If a OneCycleLR is now configured for more steps, keep that plan: the saved one has no rate for them."""
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps > state["total_steps"]:
        plan = ("total_steps", "_schedule_phases")
        return state | {name: vars(scheduler)[name] for name in plan}
    return state


def _check_number(states: list[Any], made: list[Any], kind: str) -> None:
    """Refuse a wrong number of states. No states are fine: `on_load_checkpoint` may clear them, to start fresh."""
    if states and len(states) != len(made):
        raise CheckpointError(
            f"the checkpoint has the state of {len(states)} {kind}, "
            f"but `configure_optimizers` returned {len(made)}."
        )


def _progress(checkpoint: dict[str, Any]) -> tuple[dict[str, int], bool]:
    """The counters to continue with, and whether they are those that were saved: `on_load_checkpoint` may have
    changed them. A checkpoint that Lightning wrote continues with the next epoch."""
    epoch, step = int(checkpoint["epoch"]), int(checkpoint["global_step"])
    kept = checkpoint.get("progress")
    if kept is None:
        return {"epoch": epoch + 1, "step": step}, True
    same = (epoch, step) == (kept["epoch"], kept["step"])
    return (kept, True) if same else ({"epoch": epoch, "step": step}, False)
