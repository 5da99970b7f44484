"""Files that an engine such as DeepSpeed saves itself, in a folder inside a sharded checkpoint.

DeepSpeed reads its files with pickle. So before it does, each is verified like any other checkpoint, and must
name no classes but those in `WRITTEN`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scaffold_runtime.checkpoint.io import link_atomically, sync, sync_directory, verify
from scaffold_runtime.errors import CheckpointError
from scaffold_runtime.strategies.deepspeed import whole_weights
from scaffold_runtime.strategies.strategy import Strategy

ENGINE = "engine"  # the key in a checkpoint, and the prefix of the folder's name
WRITTEN = {
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


def save_engine(strategy: Strategy, folder: Path) -> dict[str, Any]:
    """Have the engine write into `folder`; all processes must call this. Returns what was written."""
    strategy.all_do(lambda: folder.mkdir(parents=True, exist_ok=True))
    strategy.save_engine(folder)
    strategy.barrier("engine saved")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    strategy.first_does(lambda: _sync(files))
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    return {"folder": folder.name, "files": sizes}


def _sync(files: list[Path]) -> None:
    for file in files:
        sync(file)
    for directory in {file.parent for file in files}:
        sync_directory(directory)


def checked(folder: Path, record: dict[str, Any]) -> str:
    """Verify the engine's files in the checkpoint `folder`, and return the path of their folder.

    Raises:
        CheckpointError: with file and reason, if one is missing, changed, or could run code.
    """
    own = folder / Path(record["folder"]).name
    for name, size in record["files"].items():
        file, fault = own / name, ""
        if ".." in file.parts or file.is_symlink() or not file.is_file():
            fault = "is missing"
        elif file.stat().st_size != size:
            fault = "has another size"
        if fault:
            raise CheckpointError(f"the checkpoint {folder} is damaged: {own.name}/{name} {fault}.")
    for file in own.rglob("*.pt"):
        verify(file)
        foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - WRITTEN
        if foreign:
            raise CheckpointError(
                f"{file} names {', '.join(sorted(foreign))}, which DeepSpeed does not write: it is not loaded."
            )
    return str(own)


def link_engine(target: Path, link: Path, save: str) -> None:
    """Link the engine's files of one save into another checkpoint folder."""
    own = target / f"{ENGINE}-{save}"
    for file in [file for file in own.rglob("*") if file.is_file()]:
        second = link / own.name / file.relative_to(own)
        second.parent.mkdir(parents=True, exist_ok=True)
        link_atomically(file, second)


def with_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint itself; or, if an engine saved it, one with full weights and without optimizer states."""
    if ENGINE not in checkpoint:
        return checkpoint
    left = {k: v for k, v in checkpoint.items() if k not in (ENGINE, "optimizer_states")}
    return {**left, "state_dict": whole_weights(Path(checkpoint[ENGINE]))}
