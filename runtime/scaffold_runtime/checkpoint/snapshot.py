"""Copies in memory: of a state that is saved while training continues, and of what a trial run changes."""

from __future__ import annotations

import copy
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.checkpoint.transient import restore_transient, transient
from scaffold_runtime.loaders import as_train_loader, parts_of
from scaffold_runtime.positions import generators_of, put_random, take_random

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

PLAIN = (bool, int, float, str, type(None))


def snapshot(value: Any, device: str | None = "cpu", into: Any = None) -> Any:
    """A deep copy of tensors and plain values that training cannot change, in host memory; with `device=None` each
    tensor stays on its device. The memory of an older copy, given as `into`, is reused: allocating new memory takes
    several times as long as copying.
    """
    if isinstance(value, torch.Tensor):
        if _fits(value, into):
            return into.copy_(value.detach())
        return value.detach().to(device or value.device, copy=True)
    if isinstance(value, dict):
        old = into if isinstance(into, dict) else {}
        copied = type(value)(
            {key: snapshot(item, device, old.get(key)) for key, item in value.items()}
        )
        if hasattr(value, "__dict__"):  # `_metadata`: versions of layers
            vars(copied).update(vars(value))
        return copied
    if isinstance(value, (list, tuple)):
        items = into if isinstance(into, (list, tuple)) else ()
        pairs = zip_longest(value, items[: len(value)])
        return type(value)(snapshot(item, device, older) for item, older in pairs)
    return copy.deepcopy(value)


def _fits(value: torch.Tensor, into: Any) -> bool:
    return (
        isinstance(into, torch.Tensor)
        and (into.shape, into.dtype) == (value.shape, value.dtype)
        and into.stride() == value.stride()
    )


class Snapshot:
    """A copy of the module's weights, buffers, metrics, flags and plain attributes (also those not in its
    `state_dict`), the precision's state, and all random generators: global ones and those of the training loader.
    """

    def __init__(self, run: Run) -> None:
        module = run.module
        self._run = run
        # In host memory: a copy on the device would leave less memory to the trial.
        self._weights = snapshot(module.state_dict())
        # Training may replace them by others of another size.
        self._buffers = [(part._buffers, dict(part._buffers)) for part in module.modules()]
        named = module.named_parameters()
        self._left_out = snapshot({n: p for n, p in named if n not in self._weights})
        self._transient = snapshot(transient(module), None)
        self._attributes = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN)}
        self._precision = copy.deepcopy(run.precision.state_dict())
        loaders = parts_of(as_train_loader(run.feed.source("train"))) if run.fn == "fit" else []
        self._generators = [generator for loader in loaders for generator in generators_of(loader)]
        self._random = take_random(self._generators)

    def put_back(self) -> None:
        """Restore everything that was copied."""
        module = self._run.module
        for places, before in self._buffers:
            places.update(before)
        module.load_state_dict(self._weights, strict=False)
        for name, parameter in module.named_parameters():
            parameter.grad = None
            if name in self._left_out:
                parameter.data.copy_(self._left_out[name])
        restore_transient(module, snapshot(self._transient, None))
        vars(module).update(self._attributes)
        if self._precision:
            self._run.precision.load_state_dict(self._precision)
        put_random(self._random, self._generators)
