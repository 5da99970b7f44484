"""Names of a package, and modules in it, that are imported when they are first used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any


def imported_when_used(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package`: each name of `home` comes from the module below the package that it says;
    other modules of the package are there under their own names."""

    def look_up(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up
