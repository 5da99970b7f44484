"""A sharded checkpoint: a folder with one file, a part, from each rank, and a manifest that lists them.

Names of parts are never reused. When all parts are safe on disk, rank 0 puts the manifest in place, in one rename;
until then the folder stays what it was, the previous checkpoint or none. Parts are files like any other checkpoint,
verified and loaded the same way: nothing in a folder can run code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.serialization import config

from scaffold_runtime.checkpoint.engine import ENGINE, checked, link_engine, save_engine
from scaffold_runtime.checkpoint.io import (
    MANIFEST,
    drop_aside,
    link_atomically,
    move_aside,
    read_checkpoint,
    sync_directory,
    write_atomically,
    write_checkpoint,
)
from scaffold_runtime.checkpoint.litter import remove_litter
from scaffold_runtime.checkpoint.ranks import OWN
from scaffold_runtime.errors import CheckpointError
from scaffold_runtime.strategies.strategy import Strategy

FORMAT = "scaffold-runtime checkpoint in parts, 1"
NAME = re.compile(r"part-[0-9a-f]{12}-[0-9]{5}\.ckpt")
PART, SHARD = "part", "__shard__"  # keys: a file's save and rank; a rank's piece of a tensor
PIECES = "__pieces__"  # key: the pieces of a tensor from all ranks
POLL = 0.05
Write = Callable[[dict[str, Any], Path], None]


# -- writing --------------------------------------------------------------------------------------


def save(
    strategy: Strategy, checkpoint: dict[str, Any], path: Path, write: Write = write_checkpoint
) -> None:
    """Write a checkpoint, as a file (by `write`) or in parts, as the strategy saves it; all ranks must call this.

    Raises:
        CheckpointError: with path and cause, if a rank cannot write; a previous checkpoint is still there.
    """
    if not strategy.sharded:
        strategy.first_does(lambda: write(checkpoint, path))
        return
    part = _part(strategy, path)
    if strategy.owns_state:
        checkpoint = {**checkpoint, ENGINE: save_engine(strategy, path / f"{ENGINE}-{part.save}")}
    try:
        strategy.all_do(lambda: part.write(checkpoint))
    except Exception:
        with suppress(OSError):  # the disk may be full, and a part is useless without the others
            part.file(strategy.global_rank).unlink(missing_ok=True)
            path.rmdir()
        raise
    strategy.first_does(part.commit)


def save_later(
    strategy: Strategy, checkpoint: dict[str, Any], path: Path, write: Write = write_checkpoint
) -> Callable[[], None]:
    """Like `save`, but returns the work to do in a thread, which uses no collectives."""
    if not strategy.sharded:
        return lambda: write(checkpoint, path) if strategy.is_global_zero else None
    if strategy.owns_state:  # the engine cannot write while training continues
        save(strategy, checkpoint, path)
        return lambda: None
    part = _part(strategy, path)

    def work() -> None:
        part.write(checkpoint)
        if strategy.is_global_zero:
            part.await_others(strategy.timeout.total_seconds())
            part.commit()

    return work


def divided(strategy: Strategy, state: Any) -> Any:
    """A state to be saved, with this rank's piece in place of each sharded tensor."""

    def piece(tensor: Tensor) -> Any:
        found = strategy.piece(tensor)
        if found is None:
            return tensor
        own, offset = found
        # A copy: the piece is a view, and torch would write all of the memory behind it.
        copied = own.detach().to("cpu", copy=True)
        return {SHARD: copied, "at": list(offset), "of": list(tensor.shape)}

    return tree_map_only(Tensor, piece, state)


def _part(strategy: Strategy, path: Path) -> Part:
    if strategy.is_global_zero:
        if path.is_symlink():  # write under this name, not to what it points to
            path.unlink()
        move_aside(path, folder=True)
    name = strategy.broadcast(uuid.uuid4().hex[:12])
    return Part(path, name, strategy.global_rank, strategy.world_size)


@dataclass(frozen=True)
class Part:
    """The part of a sharded checkpoint that one rank writes."""

    folder: Path
    save: str
    rank: int
    size: int

    def file(self, rank: int) -> Path:
        return self.folder / f"part-{self.save}-{rank:05}.ckpt"

    def write(self, checkpoint: dict[str, Any]) -> None:
        mark = [self.save, self.rank, self.size]
        write_checkpoint({**checkpoint, PART: mark}, self.file(self.rank))

    def await_others(self, seconds: float) -> None:
        """Wait for the files of all ranks. A file gets its name only when it is complete, so no message is needed."""
        until = time.monotonic() + seconds
        while missing := [rank for rank in range(self.size) if not self.file(rank).exists()]:
            if time.monotonic() > until:
                raise CheckpointError(
                    f"cannot write the checkpoint {self.folder}: the shards of ranks {missing} did not "
                    f"appear within {seconds:g} s. Do all machines see this folder?"
                )
            time.sleep(POLL)

    def commit(self) -> None:
        """Called when all parts are written: make them the checkpoint."""
        self.await_others(0)
        _commit(self.folder, [self.file(rank) for rank in range(self.size)])


def _commit(folder: Path, parts: list[Path]) -> None:
    files = [{"file": part.name, "size": part.stat().st_size} for part in parts]
    text = json.dumps({"format": FORMAT, "parts": files}, indent=1)
    write_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))
    sync_directory(folder.parent)
    sweep(folder, {part.name for part in parts})
    drop_aside(folder)


def link_folder(target: Path, link: Path) -> None:
    """Give a sharded checkpoint a second name, without writing its parts again."""
    if link.is_symlink():
        link.unlink()
    link.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in _manifest(target)]
    for name in names:
        link_atomically(target / name, link / name)
    link_engine(target, link, names[0].split("-")[1])
    _commit(link, [link / name for name in names])


def sweep(folder: Path, kept: set[str] | None = None) -> None:
    """Remove parts of saves that were killed or replaced; and the folder, if nothing is left in it."""
    if kept is None:
        kept = {n for n, _ in _manifest(folder)} if (folder / MANIFEST).is_file() else set()
    remove_litter(folder)
    for file in folder.iterdir():
        if NAME.fullmatch(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)
        name, _, saved = file.name.partition("-")
        if name == ENGINE and not any(part.startswith(f"part-{saved}-") for part in kept):
            shutil.rmtree(file)
    if not any(folder.iterdir()):
        folder.rmdir()


# -- reading --------------------------------------------------------------------------------------


def read_parts(folder: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a sharded checkpoint as if it were one file: with full tensors, and under `ranks` the state that differs
    between ranks. If files are memory-mapped, optimizer states stay in pieces (see `assembled`).

    Raises:
        CheckpointError: with file and reason.
    """
    named = _manifest(folder)
    parts = []
    for rank, (name, size) in enumerate(named):
        file = folder / name
        if file.is_symlink() or not file.is_file() or file.stat().st_size != size:
            raise _damaged(
                folder, f"its shard {name} is missing or not of the size it was written with"
            )
        part = read_checkpoint(file, map_location)
        if part.pop(PART, None) != [name.split("-")[1], rank, len(named)]:
            raise _damaged(folder, f"its shard {name} belongs to another checkpoint")
        parts.append(part)
    whole: dict[str, Any] = {}
    for key, value in parts[0].items():
        joined = value if key in OWN else _joined([part.get(key) for part in parts])
        later = key == "optimizer_states" and config.load.mmap
        whole[key] = joined if later or key in OWN else assembled(joined, folder)
    if ENGINE in whole:
        whole[ENGINE] = checked(folder, whole[ENGINE])
    if "rng" in whole:
        whole["ranks"] = [{key: part[key] for key in OWN if key in part} for part in parts]
    return whole


def _joined(values: list[Any]) -> Any:
    """Join what the ranks saved under one key: collect the pieces of tensors, take all else from the first rank."""
    first = values[0]
    like = [value for value in values if isinstance(value, type(first))]
    if isinstance(first, dict) and SHARD in first:
        return {PIECES: like}
    if isinstance(first, dict):
        return {k: _joined([v[k] for v in like if k in v]) for k in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined([v[i] for v in like if i < len(v)]) for i in range(len(first)))
    return first


def assembled(value: Any, folder: Path) -> Any:
    """A state with full tensors in place of their pieces.

    Raises:
        CheckpointError: naming the checkpoint, if they do not fit together.
    """
    if isinstance(value, dict):
        if PIECES in value:
            return _whole(value[PIECES], folder)
        return {key: assembled(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(assembled(item, folder) for item in value)
    return value


def _whole(pieces: list[dict[str, Any]], folder: Path) -> Tensor:
    try:
        shape, own = pieces[0]["of"], [piece[SHARD] for piece in pieces]
        if sum(piece.numel() for piece in own) != torch.Size(shape).numel():
            raise _damaged(folder, f"pieces of a tensor of the shape {shape} are missing")
        whole: Tensor = own[0].new_empty(shape)
        for piece in pieces:
            ranges = zip(piece["at"], piece[SHARD].shape, strict=True)
            whole[tuple(slice(start, start + length) for start, length in ranges)] = piece[SHARD]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _damaged(folder, f"the pieces of a tensor do not fit together ({error})") from error
    return whole


def _manifest(folder: Path) -> list[tuple[str, int]]:
    """The names and sizes of the parts of a checkpoint.

    Raises:
        CheckpointError: if there is no manifest, or it is not one of ours.
    """
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        inside = max(folder.rglob("*.ckpt"), key=os.path.getmtime, default=None)
        raise CheckpointError(
            f"{folder} is a folder without a {MANIFEST}, so it is no checkpoint, or one that was never finished."
            + (f" There is {inside} in it." if inside else "")
        )
    try:
        manifest = json.loads(path.read_bytes()[:10_000_000])
        parts = [(str(part["file"]), int(part["size"])) for part in manifest["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, f"its {MANIFEST} cannot be read ({error})") from error
    ours = manifest.get("format") == FORMAT and all(NAME.fullmatch(name) for name, _ in parts)
    if not ours or not parts:
        raise _damaged(folder, f"its {MANIFEST} is of another format, or names other files")
    return parts


def _damaged(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {folder} is damaged: {reason}.")
