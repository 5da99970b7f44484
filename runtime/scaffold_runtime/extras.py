"""Optional packages: import them when they are used, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from scaffold_runtime.errors import MissingExtra


def require(module: str, install: str, user: str) -> Any:
    """Import `module` for `user`.

    Raises:
        MissingExtra: if it is not installed, with the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{user} needs the package `{module.partition('.')[0]}`, which cannot be imported ({error}). "
            f'Install it with: pip install "{install}"'
        ) from error
