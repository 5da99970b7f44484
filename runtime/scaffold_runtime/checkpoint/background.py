"""Write files beside training, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch


class Background:
    """One piece of work at a time in a thread; its error is raised where the result is asked for."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, after the previous work ended. The interpreter does not exit before it has."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def ended(self) -> bool:
        """Whether the work ended since last asked; raises what it raised."""
        if self._thread is None or self._thread.is_alive():
            return False
        return self.wait()

    def wait(self) -> bool:
        """Wait for the work, if there is any; raises what it raised."""
        if self._thread is None:
            return False
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True


def snapshot(value: Any, device: str | None = "cpu", into: Any = None) -> Any:
    """A copy that training cannot change, in host memory, or with None where each tensor is. `value` holds
    tensors and plain values. Memory of an older copy, given as `into`, is used again: the system takes
    several times as long to give new memory as the copy takes.
    """
    if isinstance(value, torch.Tensor):
        if _fits(value, into):
            return into.copy_(value.detach())
        return value.detach().to(device or value.device, copy=True)
    if isinstance(value, dict):
        old = into if isinstance(into, dict) else {}
        copied = type(value)(
            {key: snapshot(item, device, old.get(key)) for key, item in value.items()}
        )
        if hasattr(value, "__dict__"):  # layer versions
            vars(copied).update(vars(value))
        return copied
    if isinstance(value, (list, tuple)):
        items = into if isinstance(into, (list, tuple)) else ()
        pairs = zip_longest(value, items[: len(value)])
        return type(value)(snapshot(item, device, older) for item, older in pairs)
    return value


def _fits(value: torch.Tensor, into: Any) -> bool:
    return (
        isinstance(into, torch.Tensor)
        and (into.shape, into.dtype) == (value.shape, value.dtype)
        and into.stride() == value.stride()
    )
