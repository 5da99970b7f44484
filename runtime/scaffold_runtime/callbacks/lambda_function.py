"""LambdaCallback: hooks from plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaffold_runtime.errors import MisconfigurationException, did_you_mean
from scaffold_runtime.hooks import Callback, hook_names

NAMES = hook_names(Callback)


class LambdaCallback(Callback):
    """A callback made of functions: `LambdaCallback(on_train_start=lambda trainer, module: ...)`.

    Args:
        hooks: one function per hook name, with the arguments of that hook of `Callback`.

    Raises:
        MisconfigurationException: for a name that is no hook, or a value that cannot be called.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, function in hooks.items():
            if name not in NAMES:
                raise MisconfigurationException(
                    f"LambdaCallback({name}=...): there is no such hook.{did_you_mean(name, NAMES)}"
                )
            if function is not None and not callable(function):
                raise MisconfigurationException(
                    f"LambdaCallback({name}={function!r}): give a function."
                )
            if function is not None:
                setattr(self, name, function)
