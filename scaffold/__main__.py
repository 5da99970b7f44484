"""The command `scaffold`, also as `python -m scaffold`."""

import gc

gc.disable()  # a command ends before looking for garbage pays: importing alone takes a tenth less time

from scaffold.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
