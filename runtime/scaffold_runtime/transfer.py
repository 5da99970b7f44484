"""The way of a batch to the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.data import LightningDataModule, map_leaves, move_data_to_device
from scaffold_runtime.hooks import overridden
from scaffold_runtime.module import LightningModule

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def make_transfer(run: Run) -> Callable[[Any, int], Any]:
    """(batch, loader) -> the batch on the device, through the hooks somebody overrides and no others."""
    device, precision = run.trainer.strategy.root_device, run.precision
    before = _data_hook(run, "on_before_batch_transfer")
    move = _data_hook(run, "transfer_batch_to_device")
    after = _data_hook(run, "on_after_batch_transfer")
    if not (before or move or after or precision.converts_inputs) and device.type == "cpu":
        return lambda batch, loader: batch

    def transfer(batch: Any, loader: int) -> Any:
        batch = before(batch, loader) if before else batch
        if precision.converts_inputs:
            batch = _convert(batch, precision.dtype)
        batch = move(batch, device, loader) if move else move_data_to_device(batch, device)
        return after(batch, loader) if after else batch

    return transfer


def _data_hook(run: Run, name: str) -> Callable[..., Any] | None:
    if run.datamodule is not None and overridden(name, run.datamodule, LightningDataModule):
        return getattr(run.datamodule, name)  # type: ignore[no-any-return] # a bound method
    if overridden(name, run.module, LightningModule):
        return getattr(run.module, name)  # type: ignore[no-any-return] # a bound method
    return None


def _convert(batch: Any, dtype: torch.dtype) -> Any:
    """Bring the floating point tensors of a batch to `dtype`."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return map_leaves(batch, convert)
