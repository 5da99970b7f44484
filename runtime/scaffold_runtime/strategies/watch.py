"""When one rank fails, all end, and the reason is the last thing printed.

The first rank that raises writes its traceback into the shared store. A thread in each of the others polls the store
twice a second; if the main thread does not notice by itself, because it waits in a collective that will never
complete, the thread ends the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from scaffold_runtime.errors import RankFailed

if TYPE_CHECKING:
    from scaffold_runtime.strategies.launch import Children

PERIOD = 0.5  # seconds between two polls
GRACE = 3.0  # seconds in which the main thread may end by itself
FAILED = "failed"
ASKED = "asked"  # key: the signal that the launcher received


class Watch:
    """Polls for failures of other ranks while a run is open.

    Args:
        name: unique to the processes that were started together.
        rank: of this process.
        children: the processes this one started, if any: if one dies, all end.
        quiet: print nothing, since the process that started this one reports why it ends.
    """

    def __init__(
        self, name: str, rank: int, children: Children | None, quiet: bool = False
    ) -> None:
        self._name, self._rank, self._children = name, rank, children
        self.quiet = quiet
        self._store: Any = None
        self._open = False
        self._wake = threading.Event()
        self.asked = 0

    def open(self) -> None:
        """Start polling, through a connection of its own: another one may be blocked in a wait."""
        if self._store is None:
            self._store = dist.TCPStore(  # type: ignore[attr-defined] # public, but not listed
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=30),
            )
            thread = threading.Thread(target=self._look, name="scaffold-watch", daemon=True)
            thread.start()
            atexit.register(self._stop_thread, thread)
        self._open = True

    def close(self) -> None:
        """Stop polling until the next run."""
        self._open = False

    def _stop_thread(self, thread: threading.Thread) -> None:
        """Stop the thread: if it returned from the store while Python shuts down, it would abort the process."""
        self._wake.set()
        thread.join(GRACE)

    def publish(self, error: BaseException) -> str:
        """Tell the others that this rank failed; returns which rank failed first, and its traceback."""
        mine = f"{self._rank}\n{text_of(error)}"
        try:
            key = f"{self._name}/{FAILED}"
            return str(self._store.compare_set(key, "", mine).decode())
        except (RuntimeError, AttributeError):  # the store is gone, or never existed
            self.quiet = False
            return mine

    def failure(self) -> RankFailed | None:
        """The failure of another process, if there is one."""
        lost = self._children.lost() if self._children is not None else None
        try:
            key = f"{self._name}/{FAILED}"
            if self._store is not None and self._store.check([key]):
                return rank_failed(self._store.get(key).decode())
        except RuntimeError:
            return RankFailed(lost or "process 0, or the launcher, is gone.")
        return RankFailed(lost) if lost else None

    def _look(self) -> None:
        while not self._wake.wait(PERIOD):
            failure = self.failure() if self._open else None
            if failure is not None:
                self._end(failure)
                continue
            # If the store is gone, `failure` says so at the next poll.
            with contextlib.suppress(RuntimeError):
                asked = f"{self._name}/{ASKED}"
                if self._open and self._store.check([asked]):
                    self.asked = int(self._store.get(asked))

    def _end(self, failure: RankFailed) -> None:
        time.sleep(GRACE)
        if self._open and self._children is not None:
            self._children.end()  # the main thread notices, if it waits for one of them
            time.sleep(PERIOD)
        if not self._open:
            return  # the main thread is ending the run, and says why
        sys.stdout.flush()
        if not self.quiet:
            sys.stderr.write(f"\n{failure}\n")
            sys.stderr.flush()
        os._exit(1)


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def rank_failed(published: str) -> RankFailed:
    rank, text = published.split("\n", 1)
    return RankFailed(f"process {rank} failed, so all processes end.\n\n{text}")


def is_consequence(error: BaseException) -> bool:
    """Whether `error` says no more than that another process is gone or does not answer."""
    if isinstance(error, (dist.DistError, RankFailed)):
        return True
    words = ("gloo", "NCCL", "onnection closed by peer", "onnection reset", "Timed out waiting")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
