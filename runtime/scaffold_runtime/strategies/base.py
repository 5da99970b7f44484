"""What loops need from a strategy: a record of callables, and a few collectives."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaffold_runtime.precision import Precision


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model made ready: all that loops call. They know nothing else of strategy or precision."""

    call: Callable[[str], Callable[..., Any]]
    """`call("training_step")` is that step, run through whatever wraps the module."""
    backward: Callable[[Tensor, Callable[[Tensor], None]], None]
    unscale: Callable[[Optimizer], None]
    step: Callable[..., None]
    clip: Callable[[list[nn.Parameter], float, str], None]
    syncing: Callable[[bool], AbstractContextManager[Any]]
    """`syncing(last)` is the scope of one forward and backward; gradients sync if `last`."""
    forward: AbstractContextManager[Any]


class Strategy(abc.ABC):
    """Where a run happens. Abstract; each subclass is final."""

    root_device: torch.device
    world_size: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0

    @abc.abstractmethod
    def prepare(self, module: nn.Module, precision: Precision) -> Prepared:
        """Bring `module` to the device and wrap it for training."""

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def reduce(self, tensor: Tensor, op: str = "mean") -> Tensor:
        """Reduce a tensor over processes: "mean", "sum", "min" or "max"."""
        return tensor

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors of all processes, stacked along a new first dimension."""
        return data

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value process `src` has, on every process."""
        return value

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""


def clip_gradients(parameters: list[nn.Parameter], limit: float, algorithm: str) -> None:
    """Clip in place, by total 2-norm ("norm") or element-wise ("value")."""
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, limit)
