"""The command `scaffold`, also as `python -m scaffold`."""

import gc
from signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal

gc.disable()  # commands are short, and importing takes a tenth less time without it
if listens := getsignal(SIGINT) is default_int_handler:
    signal(SIGINT, SIG_DFL)  # during imports, Ctrl-C just ends the process

from scaffold.cli import main  # noqa: E402

if listens:
    signal(SIGINT, default_int_handler)
if __name__ == "__main__":
    main()
