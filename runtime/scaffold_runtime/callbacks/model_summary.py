"""ModelSummary: the layers of a model and how many parameters they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parameter import UninitializedParameter

from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.trainer import Trainer


class ModelSummary(Callback):
    """Print the layers of the model before training.

    Args:
        max_depth: how deep to go into nested layers; -1 for all, 0 for none.
    """

    def __init__(self, max_depth: int = 1) -> None:
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.max_depth:
            trainer.print(summarize(pl_module, self.max_depth))


def summarize(module: nn.Module, max_depth: int = 1) -> str:
    """A table of the layers of `module` down to `max_depth` (-1 for all), and totals below it."""
    rows = [("Layer", "Type", "Parameters", "Mode")]
    for name, layer in module.named_modules():
        if name and (max_depth == -1 or name.count(".") < max_depth):
            mode = "train" if layer.training else "eval"
            rows.append((name, type(layer).__name__, f"{_count(layer):,}", mode))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{layer:<{widths[0]}}  {kind:<{widths[1]}}  {number:>{widths[2]}}  {mode}".rstrip()
        for layer, kind, number, mode in rows
    ]
    trainable = sum(_size(p) for p in module.parameters() if p.requires_grad)
    total = _count(module)
    size = sum(_size(p) * p.element_size() for p in module.parameters()) / 1e6
    lines.append(f"{total:,} parameters ({trainable:,} trainable), {size:.2f} MB")
    return "\n".join(lines)


def _count(module: nn.Module) -> int:
    return sum(_size(parameter) for parameter in module.parameters())


def _size(parameter: nn.Parameter) -> int:
    return 0 if isinstance(parameter, UninitializedParameter) else parameter.numel()
