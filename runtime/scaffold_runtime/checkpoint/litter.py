"""Unfinished files: whoever makes one holds a lock on it, which goes with the process, however that ends. So
what a killed save left behind is told from what another live run writes, on another machine, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

if os.name == "posix":  # elsewhere an open file cannot be removed anyway
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

SUFFIX = ".partial"


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """While a new file is written, and gets its name: it is no litter, since it is locked."""
    while os.name == "posix":
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # where files cannot be locked nothing is litter
            flock(descriptor, LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        _release(descriptor)  # it was taken for litter before it was locked
    try:
        yield
    finally:
        if os.name == "posix":
            _release(descriptor)


@contextlib.contextmanager
def linking(target: Path) -> Iterator[None]:
    """While a link to `target` is made, and gets its name: it is no litter, since `target` is locked."""
    if os.name != "posix":
        yield
        return
    descriptor = os.open(target, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            flock(descriptor, LOCK_SH)
        yield
    finally:
        _release(descriptor)


def remove_litter(folder: Path) -> None:
    """Remove unfinished files and links that nobody is making."""
    for left in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # somebody holds it, or it is gone
            _remove_free(left)


def _remove_free(left: Path) -> None:
    if os.name != "posix":
        left.unlink()
        return
    descriptor = os.open(left, os.O_RDONLY if left.is_dir() else os.O_RDWR)
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
        left.unlink()
    finally:
        _release(descriptor)


def _release(descriptor: int) -> None:
    """Also where a process has it, too, that was forked meanwhile, as workers of a loader are: closing it here would
    leave the lock to that."""
    with contextlib.suppress(OSError):
        flock(descriptor, LOCK_UN)
    os.close(descriptor)
