"""A snapshot in memory of what a trial changes, to be put back after it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.loaders import as_train_loader
from scaffold_runtime.positions import generators_of
from scaffold_runtime.seed import rng_state, set_rng_state

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

PLAIN = (bool, int, float, str, type(None))


class Snapshot:
    """Weights, buffers, flags and plain attributes of the module, the precision's state, and every random
    generator: the global ones and those of the training loader."""

    def __init__(self, run: Run) -> None:
        module = run.module
        self._run = run
        self._rng = rng_state()
        self._weights = copy.deepcopy(module.state_dict())
        self._trainable = {name: p.requires_grad for name, p in module.named_parameters()}
        self._modes = {part: part.training for part in module.modules()}
        self._attributes = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN)}
        self._precision = copy.deepcopy(run.precision.state_dict())
        found = _generators(run.feed.source("train")) if run.fn == "fit" else []
        self._generators = [(generator, generator.get_state()) for generator in found]

    def put_back(self) -> None:
        """Bring everything back to where it was."""
        module = self._run.module
        module.load_state_dict(self._weights)
        for name, parameter in module.named_parameters():
            parameter.requires_grad = self._trainable[name]
            parameter.grad = None
        for part, training in self._modes.items():
            part.training = training
        vars(module).update(self._attributes)
        if self._precision:
            self._run.precision.load_state_dict(self._precision)
        for generator, state in self._generators:
            generator.set_state(state)
        set_rng_state(self._rng)


def _generators(source: Any) -> list[torch.Generator]:
    """The generators that training loaders draw from, beside the global ones."""
    loader = as_train_loader(source)
    parts = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
    return [generator for part in parts for generator in generators_of(part)]
