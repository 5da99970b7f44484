"""The command `scaffold`, also as `python -m scaffold`."""

import gc
from signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal

gc.disable()  # a command ends before looking for garbage pays: importing alone takes a tenth less time
if listens := getsignal(SIGINT) is default_int_handler:
    signal(SIGINT, SIG_DFL)  # while nothing is begun, Ctrl-C just ends it

from scaffold.cli import main  # noqa: E402

if listens:
    signal(SIGINT, default_int_handler)
if __name__ == "__main__":
    main()
