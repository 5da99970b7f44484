"""Lightning's place for its kind of warning, so that filters of it are valid; ours are UserWarnings."""

from __future__ import annotations

import warnings


class PossibleUserWarning(UserWarning):
    """Never given."""


def disable_possible_user_warnings(module: str = "") -> None:
    """Ignore them."""
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)


__all__ = ["PossibleUserWarning", "disable_possible_user_warnings"]
