"""Unfinished files: the writer of one holds a lock on it, which ends with its process, however that ends. So a
file that a killed save left can be told from one that another run is writing, even on another machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

if sys.platform == "win32":  # open files cannot be removed or renamed there
    LOCK_EX = LOCK_NB = LOCK_SH = 0
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

SUFFIX = ".partial"


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Lock a new file while it is written and renamed, so that it is not taken for litter."""
    while True:
        with _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, LOCK_EX) as there:
            if there:  # otherwise it was removed as litter before it was locked
                yield
                return


def linking(target: Path) -> AbstractContextManager[bool]:
    """Lock `target` while a link to it is made and renamed, so that the link is not taken for litter."""
    return _locked(target, os.O_RDONLY, LOCK_SH)


def remove_litter(folder: Path) -> None:
    """Remove unfinished files and links that no process is making."""
    for left in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):  # it is locked, or gone already
            flags = os.O_RDONLY if left.is_dir() else os.O_RDWR
            with _locked(left, flags, LOCK_EX | LOCK_NB):
                left.unlink()


@contextlib.contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[bool]:
    """Lock a file; yields whether it still has a name. Where files cannot be locked, nothing counts as litter."""
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        with contextlib.nullcontext() if lock & LOCK_NB else contextlib.suppress(OSError):
            flock(descriptor, lock)
        yield os.fstat(descriptor).st_nlink > 0
    finally:
        # Unlock explicitly: a process forked meanwhile, such as a data worker, shares the open file, and closing it
        # here alone would not release the lock.
        with contextlib.suppress(OSError):
            flock(descriptor, LOCK_UN)
        os.close(descriptor)
