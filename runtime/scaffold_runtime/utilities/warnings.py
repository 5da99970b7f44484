"""Lightning's import path of its warning class, so that filters for it are valid; ours are UserWarnings."""

from __future__ import annotations

import warnings


class PossibleUserWarning(UserWarning):
    """Never issued by this package."""


def disable_possible_user_warnings(module: str = "") -> None:
    """Ignore warnings of this class."""
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)


__all__ = ["PossibleUserWarning", "disable_possible_user_warnings"]
