"""For every test: no name server is asked.

torch's store looks up the name of each address that connects to it, 127.0.0.1 included. Where an answer is lost,
as happens on a busy machine, each lookup takes five seconds, and some of them together end a test of several
processes by its time limit. No test needs a name that `/etc/hosts` does not have.
"""

import os

os.environ.setdefault("RES_OPTIONS", "attempts:0")
