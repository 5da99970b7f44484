"""Functions that act on rank 0 only, for code that runs without a Trainer."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")
log = logging.getLogger("scaffold_runtime")
RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # as torchrun and SLURM set them


def rank() -> int:
    """The rank that the launcher gave this process; 0 without a launcher."""
    found = (os.environ.get(name) for name in RANK_VARIABLES)
    return next((int(value) for value in found if value), 0)


class _RankZeroOnly:
    """Call a function on rank 0 only; elsewhere return `default`. `rank_zero_only.rank` is this process's rank."""

    def __init__(self) -> None:
        self.__qualname__ = "rank_zero_only"

    @property
    def rank(self) -> int:
        return rank()

    def __call__(
        self, function: Callable[..., R], default: R | None = None
    ) -> Callable[..., R | None]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> R | None:
            return function(*args, **kwargs) if rank() == 0 else default

        return wrapped


rank_zero_only = _RankZeroOnly()


def rank_prefixed_message(message: str, rank: int | None) -> str:
    """The message, with the rank in front if there is one."""
    return message if rank is None else f"[rank: {rank}] {message}"


@rank_zero_only
def rank_zero_info(*args: Any, **kwargs: Any) -> None:
    """Log at level INFO, on rank 0 only."""
    log.info(*args, **kwargs)


@rank_zero_only
def rank_zero_debug(*args: Any, **kwargs: Any) -> None:
    """Log at level DEBUG, on rank 0 only."""
    log.debug(*args, **kwargs)


@rank_zero_only
def rank_zero_warn(message: str, stacklevel: int = 4, **kwargs: Any) -> None:
    """Warn, on rank 0 only."""
    warnings.warn(message, stacklevel=stacklevel - 1, **kwargs)


@rank_zero_only
def rank_zero_deprecation(message: str, stacklevel: int = 5, **kwargs: Any) -> None:
    """Issue a DeprecationWarning, on rank 0 only."""
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel - 2, **kwargs)


class WarningCache(set[str]):
    """Issues each message once, on rank 0 only."""

    def warn(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """Warn, unless this message was issued before."""
        if self._is_new(message):
            rank_zero_warn(message, stacklevel=stacklevel, **kwargs)

    def deprecation(self, message: str, stacklevel: int = 6, **kwargs: Any) -> None:
        """Issue a DeprecationWarning, unless this message was issued before."""
        if self._is_new(message):
            rank_zero_deprecation(message, stacklevel=stacklevel, **kwargs)

    def info(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """Log at level INFO, unless this message was issued before."""
        if self._is_new(message):
            rank_zero_info(message, stacklevel=stacklevel, **kwargs)

    def _is_new(self, message: str) -> bool:
        known = message in self
        self.add(message)
        return not known
