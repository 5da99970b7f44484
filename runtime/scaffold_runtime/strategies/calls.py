"""A debug mode: before each collective of the engine, check that all ranks make the same call."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

from scaffold_runtime.errors import StepError

SWITCH = "SCAFFOLD_DEBUG_COLLECTIVES"
OURS = f"{os.sep}scaffold_runtime{os.sep}"


class Calls:
    """Compares the n-th call of each rank by name; the error also gives the line that made it.

    Args:
        store: a key-value store all processes see.
        rank: of this process.
        size: number of processes.
        patience: how long to wait for the call of another process.
    """

    def __init__(self, store: Any, rank: int, size: int, patience: timedelta) -> None:
        self._store, self._rank, self._size, self._patience = store, rank, size, patience
        self._count = 0

    def check(self, what: str) -> None:
        """Wait until all ranks make their call of the same number.

        Raises:
            StepError: naming the calls, if a rank makes a different call, or none in time.
        """
        self._count += 1
        mine = f"`{what}` ({_caller()})"
        self._store.set(f"call-{self._count}-{self._rank}", mine)
        for other in range(self._size):
            theirs = self._call_of(other, mine)
            if theirs.split(" (")[0] != f"`{what}`":
                raise StepError(
                    f"process {self._rank} calls {mine} while process {other} calls {theirs}: "
                    "all processes must make the same calls in the same order, with tensors of the same shapes."
                )

    def _call_of(self, other: int, mine: str) -> str:
        key = f"call-{self._count}-{other}"
        try:
            self._store.wait([key], self._patience)
        except RuntimeError:
            seconds = self._patience.total_seconds()
            raise StepError(
                f"process {self._rank} calls {mine}, and process {other} did not within {seconds:g} s. "
                "Is it under a condition that holds in some processes only, such as `if rank == 0`?"
            ) from None
        return str(self._store.get(key).decode())


def _caller() -> str:
    """The nearest line outside of this package, else the nearest outside of the strategies."""
    frame = sys._getframe(3)
    inside = frame
    while frame.f_back is not None and OURS in frame.f_code.co_filename:
        if f"{OURS}strategies{os.sep}" in inside.f_code.co_filename:
            inside = frame
        frame = frame.f_back
    code = inside if OURS in frame.f_code.co_filename else frame
    return f"{code.f_code.co_filename}:{code.f_lineno}"
