"""For every test: no name server is asked, and what is there before the first one is no garbage.

torch's store looks up the name of each address that connects to it, 127.0.0.1 included. Where an answer is lost,
as happens on a busy machine, each lookup takes five seconds, and some of them together end a test of several
processes by its time limit. No test needs a name that `/etc/hosts` does not have.
"""

import gc
import os

os.environ.setdefault("RES_OPTIONS", "attempts:0")


def pytest_collection_finish() -> None:
    """So that `gc.collect()`, in which tests of the tuner spent most of their time, looks at what came since."""
    gc.collect()
    gc.freeze()
