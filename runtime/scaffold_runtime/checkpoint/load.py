"""Loading a checkpoint file into a run, or into a new module or data module."""

from __future__ import annotations

import inspect
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn
from torch.utils.serialization import config

from scaffold_runtime.checkpoint.choose import Restore
from scaffold_runtime.checkpoint.find import find_checkpoint, read_newest_good
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.checkpoint.ranks import own_part
from scaffold_runtime.checkpoint.state import load_weights
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, check_local, warn
from scaffold_runtime.extras import require
from scaffold_runtime.hooks import ask
from scaffold_runtime.hparams import AttributeDict, fitting

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def read_for_run(run: Run, ckpt_path: str | None) -> dict[str, Any] | None:
    """Read the checkpoint that a run starts from; None if it starts from scratch. A resumed fit continues in the run
    folder of its checkpoint."""
    trainer = run.trainer
    trainer._ckpt_path = None
    if ckpt_path is None and run.restore != Restore():
        raise MisconfigurationException(
            "`restore` and its options say what to take from a checkpoint: give its `ckpt_path`, too."
        )
    if ckpt_path is None:
        return None
    # Sharded processes map the file into memory, so that they share one copy of it.
    maps = trainer.strategy.divides or config.load.mmap
    with config.patch("load.mmap", maps):  # type: ignore[attr-defined] # torch adds it at run time
        found = _read(run, ckpt_path) if trainer.is_global_zero else None
        # Rank 0 decides what "last" and "best" are.
        path = Path(trainer.strategy.broadcast("" if found is None else str(found[0])))
        if not path.name:
            return None
        checkpoint = trainer.checkpoint_io.load_checkpoint(path) if found is None else found[1]
    if ckpt_path in ("best", "last"):
        trainer.print(f"{ckpt_path!r} is {os.path.relpath(path)}")
    run.chosen = None if ckpt_path == "last" else str(path)
    trainer._ckpt_path = str(path)
    if run.fn == "fit" and not run.restore.resumes:
        return checkpoint
    if run.fn == "fit" and checkpoint.get("torn") and trainer.is_global_zero:
        warn(
            f"{path} was saved when training failed, in the middle of a step (or under FSDP, where one takes several "
            "batches), so the resumed run will not be bit-identical. A checkpoint saved between steps "
            "resumes exactly."
        )
    version = _version_of(path, trainer.runs_dir) if run.fn == "fit" else None
    if version is not None:
        for logger in trainer.loggers:
            logger.decide_version(version)
    return own_part(trainer, checkpoint)


def _version_of(checkpoint: Path, runs_dir: str) -> int | str | None:
    """The version of the run that saved a checkpoint; None if it is in no run folder."""
    root, file = Path(os.path.realpath(runs_dir)), Path(os.path.realpath(checkpoint))
    if root not in file.parents or root == file.parent:
        return None
    name = file.relative_to(root).parts[0]
    if number := re.fullmatch(r"version_(\d+)", name):
        return int(number[1])
    return name if root / name != file.parent else None  # else `root` is itself a run folder


def _read(run: Run, wanted: str) -> tuple[Path, dict[str, Any]]:
    if wanted != "last":
        path = find_checkpoint(run.trainer, wanted)
        return path, run.trainer.checkpoint_io.load_checkpoint(path)
    found = read_newest_good(run.trainer, run.fn == "fit" and run.restore.resumes)
    if found is None and run.fn == "fit":
        warn('ckpt_path="last": there is no checkpoint yet, so training starts from the beginning.')
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
    opened = hasattr(checkpoint_path, "read")
    check_local("load_from_checkpoint(checkpoint_path)", checkpoint_path)
    path = checkpoint_path if opened else Path(checkpoint_path).expanduser()
    checkpoint = read_checkpoint(path, map_location or "cpu")
    is_module = issubclass(cls, nn.Module)
    prefix = "" if is_module else "datamodule_"
    saved = {k.removeprefix(prefix): v for k, v in checkpoint.items() if k.startswith(prefix)}
    read = {} if hparams_file is None else _hparams_in(Path(hparams_file).expanduser())
    arguments = _arguments(cls, saved, read, overrides)
    try:
        made = cls(**arguments)
    except TypeError as error:
        raise CheckpointError(
            f"cannot create a {cls.__name__} from {path}: {error}. Pass what is missing as a "
            "keyword argument, and none that `__init__` does not take."
        ) from error
    if is_module:
        ask(made, "configure_model")
        made.on_load_checkpoint(checkpoint)
        load_weights(made, checkpoint, strict)
    elif cls.__qualname__ in checkpoint:
        made.load_state_dict(checkpoint[cls.__qualname__])
    return made


def _rebuilt(value: Any, kind: str) -> Any:
    """The object of which `plain.opened` made a dict."""
    if kind == "Namespace":
        return Namespace(**value)
    return require("omegaconf", "omegaconf", "load_from_checkpoint").OmegaConf.create(value)


def _hparams_in(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise MisconfigurationException(f"hparams_file={str(file)!r}: {error}.") from error
    if not isinstance(found, dict):
        raise MisconfigurationException(
            f"hparams_file={str(file)!r} holds no mapping: write YAML, each line as `lr: 0.1`."
        )
    return found


def _arguments(
    cls: type[Any], saved: dict[str, Any], read: dict[str, Any], overrides: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of `cls`: `saved` by `WithHyperparameters.hparams_to_save`, `read` from a file, and `overrides`.

    Raises:
        CheckpointError: if an argument is missing that no checkpoint can hold.
    """
    kept = {**saved.get("hyper_parameters", {}), **read}
    name = saved.get("hparams_name") or "kwargs"
    for key, kind in saved.get("hparams_kinds", {}).items():
        kept[key] = _rebuilt(kept[key], kind)
    made_of = {key: kept.pop(key, None) for key in saved.get("hparams_made", [])}
    missing = sorted(made_of.keys() - overrides.keys())
    if missing and name not in overrides:  # an argument that holds all hyperparameters
        was = made_of[missing[0]]
        made = f"`{missing[0]}` was made by the command line, of {was}"
        raise CheckpointError(
            f"{was if isinstance(was, str) else made}, which no checkpoint holds, since loading one runs no code. Make "
            f"it, and pass it: {cls.__name__}.load_from_checkpoint(path, {', '.join(f'{m}=...' for m in missing)})."
        )
    parameters = inspect.signature(cls.__init__).parameters
    if name != "kwargs" and name in parameters:
        return overrides if name in overrides else {name: AttributeDict({**kept, **overrides})}
    return {**fitting(cls.__init__, kept), **overrides}
