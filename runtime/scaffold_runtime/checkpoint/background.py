"""Write files beside training, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures


class Background:
    """One piece of work at a time in a thread; its error is raised where the result is asked for."""

    def __init__(self) -> None:
        self._work: futures.Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, after the previous work ended. The interpreter does not exit before it has."""
        self.wait()
        thread = futures.ThreadPoolExecutor(1, "checkpoint")
        self._work = thread.submit(work)
        thread.shutdown(wait=False)  # it ends with the work

    @property
    def busy(self) -> bool:
        return self._work is not None

    def ended(self) -> bool:
        """Whether the work ended since last asked; raises what it raised."""
        return self._work is not None and self._work.done() and self.wait()

    def wait(self) -> bool:
        """Wait for the work, if there is any; raises what it raised."""
        if self._work is None:
            return False
        futures.wait([self._work])  # if Ctrl-C comes now, it is under way still
        work, self._work = self._work, None
        work.result()
        return True
