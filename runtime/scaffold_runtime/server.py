"""What the server that forks workers, Python 3.14's way on Linux, imports when it starts: it outlives signals to all
processes of a job, and what it forks has their handlers as they were. See `workers`."""

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
