"""Imported by the "forkserver" process that starts workers (the default on Linux from Python 3.14 on): it ignores
signals to all processes of a job, and restores their handlers in the processes it forks. See `workers`.
"""

import os
import signal

HANDLERS = {
    number: signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
}


def _as_before() -> None:
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


os.register_at_fork(after_in_child=_as_before)
