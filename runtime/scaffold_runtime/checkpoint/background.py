"""Write files beside training, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """One piece of work at a time in a thread; its error is raised where the result is asked for."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, after the previous work ended. The interpreter does not exit before it has."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def ended(self) -> bool:
        """Whether the work ended since last asked; raises what it raised."""
        if self._thread is None or self._thread.is_alive():
            return False
        return self.wait()

    def wait(self) -> bool:
        """Wait for the work, if there is any; raises what it raised."""
        if self._thread is None:
            return False
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True
