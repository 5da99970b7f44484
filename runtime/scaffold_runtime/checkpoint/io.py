"""Files: written whole or not at all, and verified before anything in them is used."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch

from scaffold_runtime.checkpoint.litter import SUFFIX, linking, unfinished
from scaffold_runtime.errors import CheckpointError, warn

MANIFEST = "manifest.json"  # a folder with this file is a checkpoint
# Names under which Lightning pickles hyperparameters, each read as a dict: nothing is imported.
HPARAMS: list[Any] = [
    (OrderedDict, f"{package}.AttributeDict")
    for package in (
        "lightning.fabric.utilities.data",
        "lightning_fabric.utilities.data",
        "pytorch_lightning.utilities.parsing",
    )
]
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that after a crash at any moment it is the old one or the new one, never half.

    Temporary file in the same directory, flush, fsync, rename, fsync of the directory.

    Raises:
        CheckpointError: with path and cause; the old file, if any, is still there.
    """
    temporary = _temporary(path)
    cause: list[OSError] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(temporary):
            with open(temporary, "wb") as file:
                write(_RecordingErrors(file, cause))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, CheckpointError):
            reason = cause[0] if cause else error
            raise CheckpointError(f"cannot write the checkpoint {path}: {reason}.") from reason
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path`, cut so that it is not too long for the file system."""
    return path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex[:8]}{SUFFIX}")


class _RecordingErrors:
    """A file that records why a write failed: torch reports only that it did."""

    def __init__(self, file: IO[bytes], cause: list[OSError]) -> None:
        self._file, self._cause = file, cause

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._cause.append(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def link_atomically(target: Path, link: Path, symbolic: bool = False) -> None:
    """Make `link` a second name of the checkpoint `target`, replacing what is there: a hard link, or a symbolic one
    if asked for, or a copy where the file system has no links.

    Raises:
        CheckpointError: with path and cause; the old file, if any, is still there.
    """
    temporary = _temporary(link)
    folder = target.is_dir() and not symbolic
    try:
        if link.exists() and not link.is_symlink() and link.is_dir() != folder:
            remove(link)  # a file and a folder cannot replace each other atomically
        if folder:
            from scaffold_runtime.checkpoint.folder import link_folder

            link_folder(target, link)
            return
        with linking(target):
            if symbolic:
                os.symlink(os.path.relpath(target, link.parent), temporary)
            else:
                os.link(os.path.realpath(target), temporary)  # not a link to a link
            os.replace(temporary, link)
        temporary.unlink(missing_ok=True)  # if both are the same file, renaming does nothing
        sync_directory(link.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno not in NO_LINKS:
            raise CheckpointError(f"cannot write the checkpoint {link}: {error}.") from error
        with open(target, "rb") as source:
            write_atomically(link, lambda file: shutil.copyfileobj(source, file))


def is_checkpoint(path: Path) -> bool:
    """Whether this is a file, or a folder whose parts were all written."""
    return path.is_file() or (path / MANIFEST).is_file()


def written(path: Path) -> int:
    """When a checkpoint was written, in nanoseconds."""
    return (path / MANIFEST if path.is_dir() else path).stat().st_mtime_ns


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in `directory` durable (on POSIX; elsewhere they are already)."""
    if os.name == "posix":
        sync(directory)


def sync(path: Path) -> None:
    """Make what was written to a file, or a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain values in torch's zip format."""
    move_aside(path, folder=False)
    write_atomically(path, lambda file: torch.save(checkpoint, file))
    drop_aside(path)


def move_aside(path: Path, folder: bool) -> None:
    """Rename a file at `path` if a `folder` will be written there, or the other way round."""
    if path.exists() and not path.is_symlink() and path.is_dir() != folder:
        drop_aside(path)
        os.replace(path, _aside(path))


def drop_aside(path: Path) -> None:
    """After the new checkpoint is complete: remove what `move_aside` renamed."""
    if os.path.exists(_aside(path)):  # False if the name is too long
        remove(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-replaced{path.suffix}")


def remove(path: Path) -> None:
    """Remove a checkpoint. The manifest of a folder goes first: without it, the rest is no checkpoint."""
    if path.is_dir() and not path.is_symlink():
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path | IO[bytes], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, a file (a path, or open) or a folder of parts, after `verify`.

    Raises:
        CheckpointError: with file and reason, if it is missing, damaged, of another format, or holds
            anything but tensors and plain values.
    """
    if isinstance(path, Path) and path.is_dir():
        from scaffold_runtime.checkpoint.folder import read_parts

        return read_parts(path, map_location)
    verify(path)
    warn_of_hole()
    try:
        with torch.serialization.safe_globals(HPARAMS):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"an object of {found[1]}" if found else str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"cannot read the checkpoint {path}: it holds something other than tensors and plain values, "
            f"or was not written by torch ({reason})."
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__} instead of a dict."
        )
    return checkpoint


@cache
def warn_of_hole() -> None:
    """Warn once if this torch is so old that `weights_only=True` is not safe."""
    if torch.__version__ < "2.10":  # compared as versions, not as text
        warn(
            f"the safe loading of torch {torch.__version__} has a known hole (CVE-2026-24747): a checkpoint made to "
            "use it can run code. Read only files you trust, or upgrade to torch 2.10 or newer."
        )


def verify(path: Path | IO[bytes]) -> None:
    """Check that `path` is a complete zip file as torch writes it, and that the checksums of its parts match. torch
    checks none of this.

    Raises:
        CheckpointError: with file and reason.
    """
    if not isinstance(path, Path):
        path.seek(0)
    elif not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}.")
    elif not path.is_file():
        raise CheckpointError(f"{path} is not a file, so it cannot be a checkpoint.")
    elif path.stat().st_size == 0:
        raise CheckpointError(f"the checkpoint {path} is empty.")
    try:
        with zipfile.ZipFile(path) as archive:
            reason = _fault(archive)
        if not isinstance(path, Path):
            path.seek(0)
    except PermissionError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged or not in torch's zip format ({error})."
        ) from error
    if reason is not None:
        raise CheckpointError(f"the checkpoint {path} is damaged: {reason}.")


def _fault(archive: zipfile.ZipFile) -> str | None:
    """What torch never writes (compressed or duplicate parts, paths out of the file, code), or a wrong checksum."""
    names = [part.filename for part in archive.infolist()]
    if len(set(names)) != len(names):
        return "two of its parts have the same name"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it has no part `data.pkl`, so torch did not write it"
    for part in archive.infolist():
        pieces = part.filename.split("/")
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            return f"its part {part.filename!r} is compressed, which torch does not do"
        if ".." in pieces or part.filename.startswith("/") or "\\" in part.filename:
            return f"its part {part.filename!r} points out of the file"
        if "code" in pieces[1:2] or pieces[-1] == "constants.pkl":
            return "it is a TorchScript program and not a checkpoint"
    bad = archive.testzip()
    return None if bad is None else f"the checksum of its part {bad!r} does not match"
