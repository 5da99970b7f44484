"""Workers of a DataLoader, and Python's helper processes: they ignore signals to all processes of a job, so that the
training process can save at its next step."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from scaffold_runtime.errors import MisconfigurationException

GRACE = 30  # seconds, as long as SLURM waits between SIGTERM and SIGKILL
SERVER = "scaffold_runtime.server"
# What is sent to all processes of a job; Windows lacks the last two.
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
OF_JOBS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def start(loader: Any) -> Iterator[Any]:
    """Start a pass over a loader, with its workers, if it has some.

    Raises:
        MisconfigurationException: if it cannot be pickled for them, or if importing the script starts training.
    """
    workers = getattr(loader, "num_workers", 0)
    context = getattr(loader, "multiprocessing_context", None) or multiprocessing
    method = context.get_start_method() if workers else "fork"
    if method != "fork" and sys.platform != "win32":
        _start_helpers(method)
    guarded = isinstance(getattr(loader, "worker_init_fn", None), StaysOn)
    try:
        # A worker gets none of the signals before it has the handlers of `StaysOn`, which lets them through.
        with blocked(OF_JOBS if guarded else ()):
            return iter(loader)
    except Exception as error:
        if workers and "pickle" in str(error):
            raise MisconfigurationException(
                "workers that are not forked, as from Python 3.14 on and on macOS and Windows, are sent the data set "
                f"and what their DataLoader calls, and something in them cannot be pickled ({error}). Define classes "
                "and functions at the top of a module, or use num_workers=0."
            ) from error
        if workers and isinstance(error, (ConnectionError, EOFError)):
            raise MisconfigurationException(
                "the process that starts the workers of a DataLoader ended; what it printed stands above. It imports "
                'the script: is what the script does below `if __name__ == "__main__":`?'
            ) from error
        raise


def _start_helpers(method: str) -> None:
    """Let the resource tracker, and the server that forks workers, survive such signals. Started here and not with the
    first worker: the server hands its signal mask to all that it forks, and starting the tracker changes ours.
    """
    from multiprocessing import forkserver, resource_tracker  # not on Windows

    with blocked((signal.SIGUSR1, signal.SIGUSR2)):
        resource_tracker.ensure_running()
    if method == "forkserver":
        server: Any = forkserver._forkserver
        if SERVER not in server._preload_modules:
            server.set_forkserver_preload([*server._preload_modules, SERVER])
        server.ensure_running()


@contextmanager
def blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Hold back these signals; processes started meanwhile begin with them blocked. Without effect on Windows."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StaysOn:
    """The `worker_init_fn` of workers. Ctrl-C and SLURM signal all processes of a job; a worker that ended, as torch's
    do at SIGTERM, would stop training before the step at which it saves. Ours continue, after SIGTERM for `GRACE`
    seconds.
    """

    def __init__(self, prepare: Any) -> None:
        self.prepare = prepare  # the user's own worker_init_fn

    def __call__(self, worker: int) -> None:
        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_JOBS)
        if self.prepare is not None:
            self.prepare(worker)
