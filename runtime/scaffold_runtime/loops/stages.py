"""Shared by validation, testing and prediction: their batches, hooks and step, and evaluation mode."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scaffold_runtime.combined import loader_length
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import overridden
from scaffold_runtime.loaders import parts_of
from scaffold_runtime.module import LightningModule
from scaffold_runtime.positions import samplers_of, tell_epoch

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def hooks_of(run: Run, stage: str) -> SimpleNamespace:
    """The hooks of a stage, under names without the stage."""
    parts = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
    return SimpleNamespace(**{part: getattr(run.hooks, f"on_{stage}_{part}") for part in parts})


def batches_of(
    run: Run, stage: str, at_most: float = math.inf
) -> Iterator[tuple[int, Iterable[Any], tuple[int, ...]]]:
    """For each loader: its index, its batches, and extra hook arguments: the index, if there are several loaders."""
    strategy, alone = run.trainer.strategy, run.metrics.alone
    loaders, lengths = run.feed.evaluated(stage), run.feed.lengths_of(stage)
    for loader, _ in loaders:
        for part in parts_of(loader):
            tell_epoch(samplers_of(part), run.progress.epoch)
    lengths = [min(length, at_most) for length in lengths]
    streams = [loader_length(loader) == math.inf for loader, _ in loaders]  # may end before a limit
    known = [math.inf if stream else n for stream, n in zip(streams, lengths, strict=True)]
    of_each = strategy.gather(known)
    (alone.discard if all(own == known for own in of_each) else alone.add)(stage)
    # Not earlier: a hook may have swapped in other weights and buffers, such as averaged ones.
    with strategy.evaluating(run.module, of_each):
        for position, ((_, iterable), length) in enumerate(zip(loaders, lengths, strict=True)):
            batches = iterable if length == math.inf else islice(iterable, int(length))
            yield position, batches, (position,) if len(loaders) > 1 else ()


def step_of(run: Run, stage: str, loaders: int) -> Callable[[Any, int, int], Any]:
    """(batch, index, loader) -> what the module's step of this stage returns.

    Raises:
        MisconfigurationException: if there are several loaders and the step does not take `dataloader_idx`.
    """
    name = f"{stage}_step"
    step, own = run.prepared.call(name), getattr(run.module, name)
    taken = positional(own)
    if loaders > 1 and taken < 3:
        raise MisconfigurationException(
            f"there are {loaders} {stage} data loaders, but `{name}` does not take `dataloader_idx`. "
            f"Write `def {name}(self, batch, batch_idx, dataloader_idx=0)`."
        )
    if loaders > 1 or positional(own, needed=True) == 3:
        return step
    if taken >= 2:
        return lambda batch, index, loader: step(batch, index)
    return lambda batch, index, loader: step(batch)


def positional(function: Callable[..., Any], needed: bool = False) -> int:
    """How many positional arguments a bound step accepts, or with `needed` requires, at most three."""
    count = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL and not needed:
            return 3
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            count += not needed or parameter.default is parameter.empty
    return min(count, 3)


@contextmanager
def not_training(run: Run, stage: str) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule gets its own mode back."""
    module, strategy = run.module, run.trainer.strategy
    modes = {part: part.training for part in module.modules()}
    getattr(module, f"on_{stage}_model_eval")()
    # Inference tensors must not leak into training, as weights that a sharding strategy gathers would.
    leaks = strategy.divider or not strategy.infers
    inference = run.trainer.inference_mode and run.fn != "fit" and not leaks
    try:
        with torch.inference_mode() if inference else torch.no_grad():
            yield
    finally:  # also after an error or an interrupt: the next run may train this module
        own = f"on_{stage}_model_train"
        if overridden(own, module, LightningModule):
            getattr(module, own)()
        else:
            for part, training in modes.items():
                part.training = training
        if inference:
            _leave_inference(module)


def _leave_inference(module: nn.Module) -> None:
    """Replace inference tensors that steps stored in the module, as torchmetrics does: a later run could not
    change them in place."""
    seen: dict[int, tuple[Any, Any]] = {}  # by id: the object and its replacement

    def usable(thing: Any) -> Any:
        if id(thing) in seen:
            return seen[id(thing)][1]
        if type(thing) is torch.Tensor and thing.is_inference():
            seen[id(thing)] = thing, thing.clone()
        elif type(thing) in (list, dict):
            seen[id(thing)] = thing, thing
            for key in range(len(thing)) if type(thing) is list else thing:
                thing[key] = usable(thing[key])
        else:
            return thing
        return seen[id(thing)][1]

    for part in module.modules():
        for name, value in vars(part).items():
            vars(part)[name] = usable(value)
