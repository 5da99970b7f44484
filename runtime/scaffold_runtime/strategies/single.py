"""One process, one device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from scaffold_runtime.precision import Precision
from scaffold_runtime.strategies.base import Prepared, Strategy, clip_gradients


class SingleDeviceStrategy(Strategy):
    """Train in this process, on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.root_device = torch.device(device)

    def prepare(self, module: nn.Module, precision: Precision) -> Prepared:
        here: nullcontext[Any] = nullcontext()
        return Prepared(
            call=lambda name: getattr(module, name),
            backward=precision.backward,
            unscale=precision.unscale,
            step=precision.step,
            clip=clip_gradients,
            syncing=lambda last: here,
            forward=precision.forward_context(),
        )
