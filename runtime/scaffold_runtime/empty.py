"""Layers for weights that are loaded later: created without initialisation, or on torch's "meta" device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scaffold_runtime.errors import MisconfigurationException


class NoInit(TorchFunctionMode):
    """Leaves tensors as they are in `uniform_`, `normal_`, `kaiming_uniform_` and `constant_` of `torch.nn.init`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def materialize(
    module: nn.Module,
    device: torch.device,
    filled: Collection[str] = (),
    then: Callable[[nn.Module], None] = lambda layer: None,
) -> None:
    """Allocate the tensors that are on the "meta" device on `device`, and let their layers initialise them, except
    the names in `filled`, which the caller fills. `then` is called with each such layer in turn.

    Shared tensors stay shared, and tensors that have memory keep their values.

    Raises:
        MisconfigurationException: if such a layer has no `reset_parameters`.
    """
    made: dict[Tensor, Tensor] = {}
    for name, layer in _inside_out(module):
        own = {k: t for k, t in (layer._parameters | layer._buffers).items() if t is not None}
        fresh = {t for t in own.values() if t.is_meta} - made.keys()
        made |= {t: _with_memory(t, device) for t in fresh}
        for key, tensor in own.items():
            if tensor.is_meta:
                setattr(layer, key, made[tensor])
        prefix = f"{name}." if name else ""
        if any(tensor in fresh and prefix + key not in filled for key, tensor in own.items()):
            _initialise(layer, name, [made.get(t, t) for t in set(own.values()) - fresh])
        if fresh:
            then(layer)


def _inside_out(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Layers in the order in which they are created and initialised: children before their parents."""
    for part, child in module.named_children():
        yield from _inside_out(child, f"{name}.{part}" if name else part)
    yield name, module


def _initialise(layer: nn.Module, name: str, kept: list[Tensor]) -> None:
    # `MultiheadAttention` has a private one.
    reset: Any = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
    if reset is None:
        raise MisconfigurationException(
            f"{type(layer).__name__}{f' ({name})' if name else ''} was made on the \"meta\" device, and cannot be "
            "filled: give it a method `reset_parameters` that initialises its own weights and buffers."
        )
    values = [tensor.detach().clone() for tensor in kept]
    reset()
    for tensor, value in zip(kept, values, strict=True):
        tensor.detach().copy_(value)


def _with_memory(tensor: Tensor, device: torch.device) -> Tensor:
    made = torch.empty_like(tensor, device=device)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
