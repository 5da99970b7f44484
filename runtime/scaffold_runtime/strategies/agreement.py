"""One clock and one decision to stop for all ranks, without a collective and without a device sync.

All ranks reach the same batches, but at different times, their clocks differ, and perhaps only one was asked to
stop. So about five times a second rank 0 writes a message for one batch into a store, and the others read it when
they reach that batch: the time, whether to stop, and at which batch to read next.
"""

from __future__ import annotations

import math
import time
from typing import Any

from scaffold_runtime.progress import NEVER
from scaffold_runtime.signals import STOP

PERIOD = 0.2  # seconds between two messages
MOST = 10_000  # batches between two messages
KEPT = 100  # messages in training, where ranks share every step: none is that far behind another


class Agreement:
    """The time, and whether to stop, equal on all ranks at the same batch.

    Args:
        store: a key-value store all processes see.
        rank: of this process.
        name: unique to the run.
    """

    def __init__(self, store: Any, rank: int, name: str) -> None:
        self._store, self._rank, self._name = store, rank, name
        self._messages = 0
        self._next = self._last = 0.0
        self._step = 1
        self._asked = 0
        self._old: list[str] = []
        self._in_step = True  # ranks share every step: in training, not in an evaluation
        self.stop = 0
        self.now = time.monotonic()

    def at(self, batch: float, asked: int, due: bool = False) -> int:
        """Why to stop after this batch: the largest number that a rank asked with, else 0. With `due`, which must be
        equal on all ranks, decide now.

        Batch 0 starts a new count, as each evaluation does. Infinity ends one in which ranks may have had different
        numbers of batches: it reads all messages up to the last.
        """
        if asked > self._asked and self._rank:
            self._asked = asked
            self._store.set(f"{self._name}/asked", str(asked))
        if batch == 0:
            self._next, self._in_step = 0.0, False
        self._in_step = self._in_step or due
        while due or self._next <= min(batch, NEVER):
            due = False
            self._read(batch, asked)
            if self.stop > STOP:  # a signal: all ranks exit
                break
        return self.stop

    def _read(self, batch: float, asked: int) -> None:
        self._messages += 1
        key = f"{self._name}/{self._messages}"
        if self._rank == 0:
            self._write(key, batch, asked)
        now, following, stop = self._store.get(key).decode().split()
        self.now, self.stop = float(now), int(stop)
        self._last, self._next = batch, float(following)

    def _write(self, key: str, batch: float, asked: int) -> None:
        now = time.monotonic()
        # The batches of a period at the last pace, at most doubled.
        if self._messages > 2 and batch < math.inf:
            done = (batch - self._last) * PERIOD / max(now - self.now, 1e-9)
            self._step = int(min(max(done, 1), 2 * self._step, MOST))
        elsewhere = f"{self._name}/asked"
        if self._store.check([elsewhere]):
            asked = max(asked, int(self._store.get(elsewhere)))
        self._store.set(key, f"{now!r} {batch + self._step} {asked}")
        self._old.append(key)
        while self._in_step and len(self._old) > KEPT:
            self._store.delete_key(self._old.pop(0))
