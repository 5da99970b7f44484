"""Profilers: where the time of a run goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.lazy import imported_when_used
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
_NAMED = {home: name for name, home in _HOME.items()}  # "simple" is short for SimpleProfiler
__all__ = [
    "AdvancedProfiler",
    "PassThroughProfiler",
    "Profiler",
    "PyTorchProfiler",
    "SimpleProfiler",
    "XLAProfiler",
    "select_profiler",
]

__getattr__ = imported_when_used(__name__, _HOME)


def select_profiler(choice: str | Profiler | None) -> Profiler:
    """Turn the Trainer's `profiler` argument into a Profiler.

    Raises:
        MisconfigurationException: for an unknown name.
    """
    if isinstance(choice, Profiler):
        return choice
    if choice is None:
        return PassThroughProfiler()
    if (kind := _NAMED.get(str(choice).lower())) is not None:
        profiler: Profiler = __getattr__(kind)()
        return profiler
    raise MisconfigurationException(
        f"Trainer(profiler={choice!r}) is unknown. Choose 'simple', 'advanced', 'pytorch', 'xla', or pass a Profiler."
    )
