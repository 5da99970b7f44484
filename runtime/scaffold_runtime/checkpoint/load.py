"""From a file to a run, or to an object."""

from __future__ import annotations

import inspect
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn
from torch.optim import Optimizer

from scaffold_runtime.checkpoint.engine import with_weights
from scaffold_runtime.checkpoint.find import find_checkpoint, read_newest_good
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.checkpoint.ranks import own_part
from scaffold_runtime.checkpoint.state import load_weights
from scaffold_runtime.errors import CheckpointError
from scaffold_runtime.hparams import AttributeDict

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def read_for_run(run: Run, ckpt_path: str | None) -> dict[str, Any] | None:
    """Read the checkpoint a run starts from; None where it starts afresh. To train on from a checkpoint is
    to go on in its run folder."""
    trainer = run.trainer
    trainer.ckpt_path = None
    if ckpt_path is None:
        return None
    found = _read(run, ckpt_path) if trainer.is_global_zero else None
    # The first process decides what "last" and "best" are.
    path = Path(trainer.strategy.broadcast("" if found is None else str(found[0])))
    if not path.name:
        return None
    checkpoint = trainer.checkpoint_io.load_checkpoint(path) if found is None else found[1]
    run.chosen = None if ckpt_path == "last" else str(path)
    trainer.ckpt_path = str(path)
    if run.fn == "fit" and checkpoint.get("torn") and trainer.is_global_zero:
        warnings.warn(
            f"{path} was saved when training failed, in the middle of a step, so what follows is not exactly "
            "what would have followed. A checkpoint saved between steps resumes exactly.",
            stacklevel=2,
        )
    if run.fn == "fit":
        for logger in trainer.loggers:
            logger.continue_run_of(path)
    return own_part(trainer, checkpoint)


def _read(run: Run, wanted: str) -> tuple[Path, dict[str, Any]]:
    if wanted != "last":
        path = find_checkpoint(run.trainer, wanted)
        return path, run.trainer.checkpoint_io.load_checkpoint(path)
    found = read_newest_good(run.trainer)
    if found is None and run.fn == "fit":
        warnings.warn(
            'ckpt_path="last": there is no checkpoint yet, so training starts from the beginning.',
            stacklevel=2,
        )
        return Path(), {}
    return found or (find_checkpoint(run.trainer, wanted), {})


def object_from_checkpoint(
    cls: type[Any],
    checkpoint_path: Any,
    map_location: Any,
    hparams_file: str | None,
    strict: bool | None,
    overrides: dict[str, Any],
) -> Any:
    """Make a module or data module from a checkpoint; see `load_from_checkpoint`."""
    path = Path(checkpoint_path)
    checkpoint = read_checkpoint(path, map_location if map_location is not None else "cpu")
    is_module = issubclass(cls, nn.Module)
    prefix = "" if is_module else "datamodule_"
    kept = dict(checkpoint.get(f"{prefix}hyper_parameters", {}))
    if hparams_file is not None:
        kept.update(yaml.safe_load(Path(hparams_file).read_text()) or {})
    name = checkpoint.get(f"{prefix}hparams_name", "kwargs")
    made_of = {key: kept.pop(key, None) for key in checkpoint.get(f"{prefix}hparams_made", [])}
    missing = made_of.keys() - overrides.keys()
    if missing:
        first = min(missing)
        raise CheckpointError(
            f"the command line made `{first}` of {made_of[first]}; loading a checkpoint runs no code. Make it, and "
            f"pass it: {cls.__name__}.load_from_checkpoint(path, {first}=...)."
        )
    try:
        made = cls(**_arguments(cls, kept, name or "kwargs", overrides))
    except TypeError as error:
        raise CheckpointError(
            f"cannot make a {cls.__name__} from {path}: {error}. Pass what is missing as a keyword argument."
        ) from error
    if is_module:
        made.on_load_checkpoint(checkpoint)
        load_weights(made, checkpoint, strict)
    elif cls.__qualname__ in checkpoint:
        made.load_state_dict(checkpoint[cls.__qualname__])
    return made


def _arguments(
    cls: type[Any], kept: dict[str, Any], name: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters
    if name != "kwargs" and name in parameters:
        return overrides if name in overrides else {name: AttributeDict({**kept, **overrides})}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fitting = kept if takes_any else {k: v for k, v in kept.items() if k in parameters}
    return {**fitting, **overrides}


def restore(
    path: Any,
    module: nn.Module,
    *optimizers: Optimizer,
    only: str = "*",
    strict: bool = True,
    lr: float | None = None,
) -> list[str]:
    """Take from a checkpoint what is wanted: weights, and the state of the optimizers that are given. To
    restore everything, pass the path to `fit`.

    Args:
        path: the file.
        module: what takes the weights.
        optimizers: what take their states, in the order of `configure_optimizers`.
        only: a pattern such as "encoder.*" for the names of weights to take.
        strict: refuse a file that lacks a wanted weight, or has one the module lacks.
        lr: a new learning rate for the optimizers.

    Returns:
        The names of the weights that were taken.

    Raises:
        CheckpointError: if the file is bad, or does not fit.
    """
    checkpoint = with_weights(read_checkpoint(Path(path)))
    own = [name for name in module.state_dict() if fnmatchcase(name, only)]
    given = {k: v for k, v in checkpoint.get("state_dict", {}).items() if fnmatchcase(k, only)}
    astray = sorted(set(own) ^ set(given))
    if strict and astray:
        raise CheckpointError(
            f"{path} and {type(module).__name__} do not have the same weights {only!r}: {', '.join(astray)}. "
            "Pass strict=False to take those they share."
        )
    states = checkpoint.get("optimizer_states", [])
    if len(states) < len(optimizers):
        raise CheckpointError(f"{path} has the state of {len(states)} optimizer(s).")
    try:
        module.load_state_dict({k: v for k, v in given.items() if k in own}, strict=False)
        for optimizer, state in zip(optimizers, states, strict=False):
            optimizer.load_state_dict(state)
            for group in optimizer.param_groups if lr is not None else ():
                group["lr"] = group["initial_lr"] = lr
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit {type(module).__name__}: {error}") from error
    return [name for name in given if name in own]
