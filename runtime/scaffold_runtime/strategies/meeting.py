"""How processes restarted by torchrun find each other, and ignore what an earlier attempt left in the store."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

from torch import distributed as dist

POLL = 0.02  # seconds


def meet(store: Any, rank: int, size: int, timeout: timedelta) -> str:
    """A name for this attempt, equal on all its ranks.

    torchrun's store outlives attempts and still holds addresses of processes that are gone, and each machine counts
    attempts by itself. So every rank writes a random word, rank 0 publishes its own with those it has read, and a
    rank that finds its word among them has met the rank 0 of its own attempt.

    Raises:
        DistStoreError: if some ranks are missing after `timeout`.
    """
    word, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank:
        store.set(f"word-{rank}", word)
    others = range(1, size)
    while time.monotonic() < until:
        if rank:
            name, *words = store.get("words").decode().split() if store.check(["words"]) else [""]
            if word in words:
                store.set(f"{name}-{rank}", "met")
                return name
        else:
            keys = [f"word-{other}" for other in others]
            if not keys or store.check(keys):
                words = [read.decode() for read in store.multi_get(keys)] if keys else []
                store.set("words", " ".join([word, *words]))
            if not others or store.check([f"{word}-{other}" for other in others]):
                return word
        time.sleep(POLL)
    raise dist.DistStoreError(f"the {size} processes did not connect within {timeout}")
