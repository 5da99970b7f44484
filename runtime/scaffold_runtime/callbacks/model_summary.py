"""ModelSummary: the layers of a model, how many parameters they have, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scaffold_runtime.columns import aligned
from scaffold_runtime.data import evaluation_mode, move_data_to_device
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

Shapes = list[Any] | str
NUMERIC = (False, False, True, False, True, False, False)  # which columns are aligned to the right


@dataclass
class Layer:
    """One line of a summary."""

    name: str
    kind: str
    parameters: int
    training: bool
    flops: int = 0
    in_size: Shapes = "?"
    out_size: Shapes = "?"


@dataclass
class Summary:
    """The layers of a module and their totals; printed, it is a table."""

    layers: list[Layer]
    total_parameters: int
    trainable_parameters: int
    model_size: float
    """Of the parameters, in MB (a million bytes)."""
    total_flops: int | None = None
    """Of one forward pass over `example_input_array`; None without one."""
    modes: dict[str, int] = field(default_factory=dict)

    def table(self) -> list[tuple[str, ...]]:
        """Header and rows, as text."""
        measured = self.total_flops is not None
        header = ("Layer", "Type", "Parameters", "Mode")
        rows = [header + (("FLOPs", "In sizes", "Out sizes") if measured else ())]
        for layer in self.layers:
            mode = "train" if layer.training else "eval"
            row = (layer.name, layer.kind, f"{layer.parameters:,}", mode)
            sizes = (f"{layer.flops:,}", str(layer.in_size), str(layer.out_size))
            rows.append(row + (sizes if measured else ()))
        return rows

    def totals(self) -> list[str]:
        """The lines below the table."""
        trained = f"{self.total_parameters:,} parameters ({self.trainable_parameters:,} trainable)"
        lines = [f"{trained}, {self.model_size:.2f} MB"]
        if self.modes.get("eval"):
            lines.append(f"{self.modes['eval']} of {sum(self.modes.values())} layers in eval mode")
        if self.total_flops is not None:
            lines.append(f"{self.total_flops:,} FLOPs in one forward pass")
        return lines

    def __str__(self) -> str:
        return "\n".join([*aligned(self.table(), NUMERIC), *self.totals()])


class ModelSummary(Callback):
    """Print the layers of the model before training; sizes and FLOPs too, if it has `example_input_array`.

    Args:
        max_depth: how deep to go into nested layers; -1 for all, 0 for no summary.
    """

    def __init__(self, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise MisconfigurationException(
                f"{type(self).__name__}(max_depth={max_depth!r}): give -1 for all levels, 0 for none, or a number."
            )
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = trainer.is_global_zero
        # With sharded weights, the forward pass over an example needs all ranks.
        if self.max_depth and (first or trainer.strategy.divider):
            summary = summarize(pl_module, self.max_depth)
            if first:
                self.show(trainer, summary)

    def show(self, trainer: Trainer, summary: Summary) -> None:
        """Print the summary; override it to show it in another way."""
        trainer.print(summary)


def summarize(module: nn.Module, max_depth: int = 1) -> Summary:
    """The layers of `module` down to `max_depth` (-1 for all), and totals over all of it."""
    shown = {
        name: layer
        for name, layer in module.named_modules()
        if name and (max_depth == -1 or name.count(".") < max_depth)
    }
    layers = {
        name: Layer(name, type(layer).__name__, sum(map(_size, layer.parameters())), layer.training)
        for name, layer in shown.items()
    }
    inner = [part for name, part in module.named_modules() if name]
    parameters = list(module.parameters())
    summary = Summary(
        list(layers.values()),
        total_parameters=sum(map(_size, parameters)),
        trainable_parameters=sum(_size(p) for p in parameters if p.requires_grad),
        model_size=sum(_size(p) * p.element_size() for p in parameters if not is_lazy(p)) / 1e6,
        modes={"train": sum(p.training for p in inner), "eval": sum(not p.training for p in inner)},
    )
    if getattr(module, "example_input_array", None) is not None:
        _measure(module, shown, layers, summary)
    return summary


def _measure(
    module: Any, shown: dict[str, nn.Module], layers: dict[str, Layer], summary: Summary
) -> None:
    """Run one forward pass over the example input, and note sizes and operations of each layer."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    example = move_data_to_device(module.example_input_array, device)
    counter = FlopCounterMode(display=False)
    with _noting_sizes(shown, layers), evaluation_mode(module), torch.no_grad(), counter:
        if isinstance(example, dict):
            module(**example)
        else:
            module(*(example if isinstance(example, tuple) else (example,)))
    summary.total_flops = counter.get_total_flops()
    by_part: dict[str, int] = defaultdict(int)
    for name, operations in counter.get_flop_counts().items():
        by_part[name.partition(".")[2]] += sum(operations.values())  # names start with the class
    for name, layer in layers.items():
        layer.flops = by_part.get(name, 0)


@contextmanager
def _noting_sizes(shown: dict[str, nn.Module], layers: dict[str, Layer]) -> Iterator[None]:
    def note(layer: Layer, _: nn.Module, inputs: Any, output: Any) -> None:
        layer.in_size = sizes_of(inputs[0] if len(inputs) == 1 else inputs)
        layer.out_size = sizes_of(output)

    with ExitStack() as noting:
        for name, part in shown.items():
            noting.enter_context(part.register_forward_hook(partial(note, layers[name])))
        yield


def sizes_of(value: Any) -> Shapes:
    """The shapes of tensors in nested lists and tuples; "?" for anything else."""
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, (list, tuple)):
        return [sizes_of(item) for item in value]
    return "?"


def _size(parameter: nn.Parameter) -> int:
    if is_lazy(parameter):
        return 0
    divided = getattr(parameter, "ds_numel", None)  # sharded by DeepSpeed: `numel()` is 0
    return parameter.numel() if divided is None else int(divided)
