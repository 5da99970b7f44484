"""Importing names and modules of a package when they are first used."""

from __future__ import annotations

import gc
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any


def imported_when_used(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package`: `home` says from which of its modules a name is imported; other names are
    modules of the package."""

    def look_up(name: str) -> Any:
        if name in home:
            return getattr(_imported(f"{package}.{home[name]}"), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            return _imported(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


def _imported(module: str) -> Any:
    """Import a module with garbage collection off: importing torch creates many objects and no garbage, so collecting
    takes a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if collects:
            gc.enable()
