"""Profilers: where the time of a run goes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.profilers.profiler import PassThroughProfiler, Profiler

if TYPE_CHECKING:
    from scaffold_runtime.profilers.advanced import AdvancedProfiler
    from scaffold_runtime.profilers.pytorch import PyTorchProfiler
    from scaffold_runtime.profilers.simple import SimpleProfiler
    from scaffold_runtime.profilers.xla import XLAProfiler

_HOME = {
    "AdvancedProfiler": "advanced",
    "PyTorchProfiler": "pytorch",
    "SimpleProfiler": "simple",
    "XLAProfiler": "xla",
}
_NAMES = {
    "simple": "SimpleProfiler",
    "advanced": "AdvancedProfiler",
    "pytorch": "PyTorchProfiler",
    "xla": "XLAProfiler",
}
__all__ = [
    "AdvancedProfiler",
    "PassThroughProfiler",
    "Profiler",
    "PyTorchProfiler",
    "SimpleProfiler",
    "XLAProfiler",
    "select_profiler",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def select_profiler(choice: str | Profiler | None) -> Profiler:
    """Turn the Trainer's `profiler` argument into a Profiler.

    Raises:
        MisconfigurationException: for an unknown name.
    """
    if isinstance(choice, Profiler):
        return choice
    if choice is None:
        return PassThroughProfiler()
    if choice in _NAMES:
        profiler: Profiler = __getattr__(_NAMES[choice])()
        return profiler
    raise MisconfigurationException(
        f"Trainer(profiler={choice!r}) is unknown. Choose 'simple', 'advanced', 'pytorch', 'xla', or pass a Profiler."
    )
