"""Settings for all tests: no DNS lookups, and faster garbage collection.

torch's TCPStore looks up the name of each address that connects to it, even of 127.0.0.1. On a busy machine answers
get lost, each lookup then takes five seconds, and several of them exceed the time limit of a multi-process test.
No test needs a name that is not in `/etc/hosts`.
"""

import gc
import os

os.environ.setdefault("RES_OPTIONS", "attempts:0")


def pytest_collection_finish() -> None:
    """Exclude existing objects from `gc.collect()`, where tests of the tuner spent most of their time."""
    gc.collect()
    gc.freeze()
