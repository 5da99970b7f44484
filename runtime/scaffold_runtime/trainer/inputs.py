"""Check the arguments of fit, validate, test and predict, and bring them into one form."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import overridden
from scaffold_runtime.module import LightningModule


def module_of(model: Any) -> LightningModule:
    """The LightningModule, also if `model` is a `torch.compile(module)`."""
    inner: object = getattr(model, "_orig_mod", model)
    if isinstance(inner, type):
        raise MisconfigurationException(
            f"the model is the class {inner.__name__}: pass an instance, {inner.__name__}(...)."
        )
    if isinstance(inner, (DataLoader, LightningDataModule)):
        raise MisconfigurationException(
            f"the model must come first, and the data after it; got a {type(inner).__name__} in its place."
        )
    if not isinstance(inner, LightningModule):
        raise MisconfigurationException(
            f"the model must be a LightningModule, got {type(inner).__name__}. "
            "Import both from the same package: `from scaffold_runtime import LightningModule, Trainer`."
        )
    if "_modules" not in vars(inner):
        raise MisconfigurationException(
            f"`{type(inner).__name__}.__init__` does not call `super().__init__()`: write that as its first line."
        )
    if inner is not model:
        _compile_steps(inner, model.dynamo_ctx)
    return inner


def _compile_steps(module: LightningModule, compiled: Callable[[Any], Any]) -> None:
    """`torch.compile(module)` compiles `forward`, but a trainer calls steps: compile those as well."""
    module.log = torch.compiler.disable(module.log)  # type: ignore[method-assign] # logging is not to be traced
    for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
        if name not in vars(module) and overridden(name, module, LightningModule):
            setattr(module, name, compiled(getattr(module, name)))


def loaders_and_data(
    datamodule: LightningDataModule | None, **loaders: Any
) -> tuple[dict[str, Any], LightningDataModule | None]:
    """Separate loaders from the data module, which may be passed as the first loader."""
    first = next(iter(loaders.values()))
    if isinstance(first, LightningDataModule):
        if datamodule is not None:
            raise MisconfigurationException("two data modules were passed: leave one out.")
        return {}, first
    if datamodule is not None and any(loader is not None for loader in loaders.values()):
        raise MisconfigurationException(
            "both loaders and a data module were passed, so it is unclear which to use: leave one out."
        )
    return loaders, datamodule


def path_of(path: str | Path | None) -> str | None:
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise MisconfigurationException(f'ckpt_path={path!r}: give a path, "best" or "last".')
    return None if path is None else os.path.expanduser(path)
