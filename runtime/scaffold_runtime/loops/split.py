"""The step of `accumulate_grad_batches="auto"`: a batch that runs out of memory is cut, and training continues."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaffold_runtime.accelerators import free_memory, is_out_of_memory
from scaffold_runtime.data import batch_size_of, map_leaves
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.loops.step import Step, complete

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

PLAIN = (str, bytes, int, float, type(None))


def splitting(run: Run, closure: bool) -> Step:
    """Like `automatic`, but runs a batch in as many parts as memory requires. Losses are weighted by samples, so
    the gradient of a mean loss is that of the whole batch. The number of parts is kept for later batches, and in
    checkpoints; ranks agree on it before gradients are reduced.

    Raises:
        MisconfigurationException: if the optimizer evaluates the loss itself, or layers are sharded.
    """
    average = run.prepared.average
    if closure or average is None:
        why = "the optimizer evaluates the loss" if closure else "processes share each layer"
        raise MisconfigurationException(
            f'Trainer(accumulate_grad_batches="auto") cannot take a step again where {why}. '
            "Give a number of batches, and the loader a smaller batch size."
        )
    run.metrics.alone.add("train")  # a step may run out of memory on one rank only

    def step(batch: Any, index: int, last: bool) -> tuple[Any, bool]:
        while (done := _attempt(run, batch, index)) is None:
            free_memory()
        outputs, loss_seen = done
        if not loss_seen:
            return outputs, False
        average()
        optimizer = run.optimizers[0]
        complete(run, optimizer)
        run.prepared.step(optimizer)
        run.schedules.after_step(run.progress.step + 1)
        return outputs, True

    return step


def _attempt(run: Run, batch: Any, index: int) -> tuple[Any, bool] | None:
    """Compute the gradients of a batch: (its outputs, whether there was a loss), or None to cut it further."""
    size = max(1, batch_size_of(batch))
    wanted = run.progress.halvings
    parts, go_back = cut(batch, min(2**wanted, size), size), run.metrics.mark()
    try:
        done = _gradients(run, parts, index)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        if len(parts) == size:
            raise StepError(
                f"`training_step` runs out of memory with one sample at a time (the batch has {size}). "
                "Use a smaller model, shorter samples, or a lower precision such as 'bf16-mixed'."
            ) from error
        wanted += 1
    finally:
        run.metrics.batch = batch
    agreed = max(run.trainer.strategy.gather(wanted)) if run.several else wanted
    if agreed == run.progress.halvings:
        return done
    run.progress.halvings = agreed
    go_back()
    return None


def _gradients(run: Run, parts: list[tuple[Any, float]], index: int) -> tuple[Any, bool]:
    """Forward and backward of each part, without gradient sync: another rank may have to try again."""
    loss_seen = False
    outputs: list[Any] = []
    for part, share in parts:
        run.metrics.batch = part
        run.prepared.set_syncing(False)
        loss, output = run.forward(part, index, not outputs)
        outputs.append(output)
        if loss is not None:
            loss_seen = True
            run.backward(loss if share == 1 else loss * share)
    return join(outputs, [share for _, share in parts]), loss_seen


def cut(batch: Any, parts: int, size: int) -> list[tuple[Any, float]]:
    """Cut a batch of `size` samples into `parts`, each with its share of the samples.

    Raises:
        StepError: if the batch holds something that is neither one row per sample nor one value for all.
    """
    if parts == 1:
        return [(batch, 1.0)]
    bounds = [size * number // parts for number in range(parts + 1)]

    def listed(thing: Any) -> bool:
        rows = isinstance(thing, (list, tuple)) and len(thing) == size
        return rows and all(isinstance(row, PLAIN) for row in thing)

    def rows(start: int, end: int) -> Any:
        def take(leaf: Any) -> Any:
            if isinstance(leaf, PLAIN) or (isinstance(leaf, Tensor) and not leaf.ndim):
                return leaf
            if listed(leaf) or (isinstance(leaf, Tensor) and len(leaf) == size):
                return leaf[start:end]
            shape = f" of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else ""
            raise StepError(
                f"a batch of {size} samples ran out of memory and cannot be cut: it holds a "
                f"{type(leaf).__name__}{shape}, where one row per sample is needed. Use a smaller batch size, "
                'or a number in place of Trainer(accumulate_grad_batches="auto").'
            )

        return map_leaves(batch, take, listed)

    return [(rows(start, end), (end - start) / size) for start, end in pairwise(bounds)]


def join(outputs: list[Any], shares: list[float]) -> Any:
    """Merge the outputs of the parts: scalars averaged by samples, rows concatenated, else the last part's."""
    kept = [(out, share) for out, share in zip(outputs, shares, strict=True) if out is not None]
    if len(kept) < 2:
        return kept[0][0] if kept else None

    def joined(key: str) -> Any:
        values = [out[key] for out, _ in kept]
        if not all(isinstance(value, Tensor) for value in values):
            return values[-1]
        if values[0].ndim:
            return torch.cat(values)
        return sum(value * share for value, (_, share) in zip(values, kept, strict=True))

    return {key: joined(key) for key in kept[-1][0]}
