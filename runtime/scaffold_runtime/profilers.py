"""Profilers: where the time of a run goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from scaffold_runtime.errors import MisconfigurationException


class Profiler:
    """Measure named actions. This base measures nothing; `wrap` is how hooks get measured."""

    wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]] | None = None

    @contextmanager
    def profile(self, action_name: str) -> Iterator[None]:
        """Measure what happens in the block under `action_name`."""
        yield

    def describe(self) -> None:
        """Report what was measured."""


class PassThroughProfiler(Profiler):
    """Measure nothing."""


def select_profiler(choice: str | Profiler | None) -> Profiler:
    """Turn the Trainer's `profiler` argument into a Profiler.

    Raises:
        MisconfigurationException: for an unknown name.
    """
    if isinstance(choice, Profiler):
        return choice
    if choice is None or choice in ("simple", "advanced", "pytorch"):
        return PassThroughProfiler()
    raise MisconfigurationException(
        f"Trainer(profiler={choice!r}) is unknown. Choose 'simple', 'advanced', 'pytorch', or pass a Profiler."
    )
