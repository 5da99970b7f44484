"""Unfinished files: whoever makes one holds a lock on it, which goes with the process, however that ends. So
what a killed save left behind is told from what another live run writes, on another machine, too.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

if sys.platform == "win32":  # an open file cannot be removed there, nor get another name
    LOCK_EX = LOCK_NB = LOCK_SH = 0
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

SUFFIX = ".partial"


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """While a new file is written, and gets its name: it is no litter, since it is locked."""
    while True:
        with _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, LOCK_EX) as there:
            if there:  # else it was taken for litter before it was locked
                yield
                return


def linking(target: Path) -> AbstractContextManager[bool]:
    """While a link to `target` is made, and gets its name: it is no litter, since `target` is locked."""
    return _locked(target, os.O_RDONLY, LOCK_SH)


def remove_litter(folder: Path) -> None:
    """Remove unfinished files and links that nobody is making."""
    for left in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # somebody holds it, or it is gone
            flags = os.O_RDONLY if left.is_dir() else os.O_RDWR
            with _locked(left, flags, LOCK_EX | LOCK_NB):
                left.unlink()


@contextlib.contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[bool]:
    """Hold a lock on a file; whether it has a name still. Where files cannot be locked, nothing is litter."""
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        with contextlib.nullcontext() if lock & LOCK_NB else contextlib.suppress(OSError):
            flock(descriptor, lock)
        yield os.fstat(descriptor).st_nlink > 0
    finally:
        # Also where a process has it, too, that was forked meanwhile, as workers of a loader are: to close it here
        # would leave the lock to that.
        with contextlib.suppress(OSError):
            flock(descriptor, LOCK_UN)
        os.close(descriptor)
