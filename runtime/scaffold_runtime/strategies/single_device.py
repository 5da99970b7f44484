"""One process, one device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.precision import Precision
from scaffold_runtime.strategies.strategy import Prepared, Strategy, to_main_memory, unwrapped


class SingleDeviceStrategy(Strategy):
    """Train in this process, on one device: the given one, else the first of the trainer."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = device

    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        self.root_device = torch.device(self._device or accelerator.device(devices[0]))

    def open(self) -> None:
        if self.root_device.type == "cuda":  # for tensors created on "cuda", and for streams
            torch.cuda.set_device(self.root_device)

    def release(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        if self.root_device.type != "cpu":
            to_main_memory(module, optimizers)

    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        return unwrapped(module, precision)
