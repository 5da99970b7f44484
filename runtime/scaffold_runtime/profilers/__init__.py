"""Profilers: how the time of a run is spent."""

from __future__ import annotations

from collections.abc import Callable

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.profilers.advanced import AdvancedProfiler
from scaffold_runtime.profilers.profiler import PassThroughProfiler, Profiler
from scaffold_runtime.profilers.pytorch import PyTorchProfiler
from scaffold_runtime.profilers.simple import SimpleProfiler
from scaffold_runtime.profilers.xla import XLAProfiler

NAMED: dict[str, Callable[[], Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
    "xla": XLAProfiler,
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


def select_profiler(choice: str | Profiler | None) -> Profiler:
    """Turn the Trainer's `profiler` argument into a Profiler.

    Raises:
        MisconfigurationException: for an unknown name.
    """
    if isinstance(choice, Profiler):
        return choice
    if choice is None:
        return PassThroughProfiler()
    if (kind := NAMED.get(str(choice).lower())) is not None:
        return kind()
    raise MisconfigurationException(
        f"Trainer(profiler={choice!r}) is unknown. Choose {', '.join(map(repr, NAMED))}, or pass a Profiler."
    )
