"""Optimizers and schedulers that come from the command line instead of `configure_optimizers`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, Union

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.module import LightningModule

Configured = Callable[..., Any]


class ReduceLROnPlateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """torch's scheduler of this name, together with the logged name it watches.

    Args:
        optimizer: whose learning rate is reduced.
        monitor: the logged name to watch.
        args: torch's arguments.
        kwargs: torch's arguments.
    """

    def __init__(self, optimizer: Optimizer, monitor: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(optimizer, *args, **kwargs)
        self.monitor = monitor


# torch's own plateau scheduler has no monitor, so ours replaces it.
LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
LRSchedulerTypeUnion = Union[LRScheduler, ReduceLROnPlateau]  # noqa: UP007 - used at run time
OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRSchedulerTypeUnion]


def instantiate_class(args: Any | tuple[Any, ...], init: Mapping[str, Any]) -> Any:
    """Create an object from `{"class_path": ..., "init_args": {...}}`, with `args` put first.

    Args:
        args: positional arguments that no configuration can hold, such as parameters.
        init: the class and its keyword arguments, as a command line or YAML file gave them. Never pass
            what was read from a checkpoint: the class is imported.
    """
    positional = args if isinstance(args, tuple) else (args,)
    module, _, name = init["class_path"].rpartition(".")
    made_by = getattr(importlib.import_module(module), name)
    return made_by(*positional, **(init.get("init_args") or {}))


def described(kind: Any, config: Any) -> dict[str, Any]:
    """The configuration of an object as `{"class_path", "init_args"}`, even if its class is fixed."""
    given = config.as_dict() if hasattr(config, "as_dict") else dict(config)
    if isinstance(kind, tuple):
        return given
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": given}


def the_automatic(
    kinds: Mapping[str, tuple[Any, str]], what: str, configured: Callable[[str], Any]
) -> dict[str, Any] | None:
    """The configuration of the one among `kinds` that is linked to the model automatically; None if there is none.

    Raises:
        MisconfigurationException: if there are several.
    """
    found = [(key, kind) for key, (kind, link_to) in kinds.items() if link_to == "AUTOMATIC"]
    if len(found) > 1:
        names = ", ".join(key for key, _ in found)
        raise MisconfigurationException(
            f"several {what}s would configure the model: {names}. Give all but one of them a `link_to`."
        )
    given = ((kind, configured(key)) for key, kind in found)
    return next((described(kind, config) for kind, config in given if config is not None), None)


def install(
    module: LightningModule, configure: Configured, optimizer: Any, scheduler: Any | None
) -> None:
    """Replace `configure_optimizers` of `module` by `configure(module, optimizer, scheduler)`."""

    def configure_optimizers(self: LightningModule) -> Any:
        made = instantiate_class((self.parameters(),), optimizer)
        schedule = instantiate_class((made,), scheduler) if scheduler else None
        return configure(self, made, schedule)

    vars(module)["configure_optimizers"] = MethodType(configure_optimizers, module)
