"""Write files in a thread while training continues, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class Background:
    """Runs one piece of work at a time in a thread; `ended` and `wait` raise its error."""

    def __init__(self) -> None:
        self._work: futures.Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Start work, after the previous work has ended. The interpreter does not exit before it ends."""
        self.wait()
        thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._work = thread.submit(work)
        thread.shutdown(wait=False)  # it ends with the work

    @property
    def busy(self) -> bool:
        return self._work is not None

    def ended(self) -> bool:
        """Whether the work has ended since the last call; raises what it raised."""
        return self._work is not None and self._work.done() and self.wait()

    def wait(self) -> bool:
        """Wait for the work, if there is any; raises what it raised."""
        if self._work is None:
            return False
        futures.wait([self._work])  # if Ctrl-C interrupts here, it still counts as running
        work, self._work = self._work, None
        work.result()
        return True
