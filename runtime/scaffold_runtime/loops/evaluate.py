"""Evaluation: validation and testing, over one loader after another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scaffold_runtime.combined import TAKE_AGAIN, loader_length
from scaffold_runtime.errors import warn
from scaffold_runtime.loops.stages import batches_of, hooks_of, not_training, step_of
from scaffold_runtime.seed import isolate_rng

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def evaluate(run: Run, stage: str, at_most: float = math.inf) -> list[dict[str, Any]]:
    """Run `stage` ("validation" or "test") and return the metrics, one dict per loader.

    model_eval -> start -> epoch_start -> per batch: to device, batch_start, step, batch_end ->
    epoch_end -> metrics to loggers -> end -> model_train.
    """
    hooks, metrics = hooks_of(run, stage), run.metrics
    if run.feed.limit_of(stage) == 0 and not run.trainer.tries:
        return []
    lengths = [*map(loader_length, run.feed.eval_loaders(stage))]
    if not run.several and not any(lengths):
        return []
    loaders = len(lengths)
    step = step_of(run, stage, loaders)
    run.evaluated = 0
    with not_training(run, stage):
        metrics.enter(stage, in_batch=False)
        hooks.start()
        hooks.epoch_start()
        for position, batches, loader_args in batches_of(run, stage, at_most):
            metrics.enter(stage, True, position, loaders)
            index = -1
            for index, batch in enumerate(batches):
                if run.several or run.signals.received:
                    run.signals.leave_evaluation(run)
                metrics.batch = batch = run.to_device(batch, position)
                for call in hooks.batch_start:
                    call(batch, index, *loader_args)
                outputs = step(batch, index, position)
                for call in hooks.batch_end:
                    call(outputs, batch, index, *loader_args)
                if metrics.eval_steps:
                    run.log_eval_step(stage, position)
            if index < 0 and lengths[position] == math.inf and not run.several:
                warn(
                    f"the {stage} loader gave no batch. A generator gives its batches once, and the sanity check takes "
                    f"some: {TAKE_AGAIN}"
                )
        if run.several:
            run.signals.leave_evaluation(run, ended=True)
        metrics.enter(stage, in_batch=False)
        run.settle(stage)
        with metrics.closing(stage):
            hooks.epoch_end()
        results = run.publish(stage, loaders)
        metrics.leave(f"when {stage} has ended")
        hooks.end()
    return results


def sanity_check(run: Run) -> None:
    """Run a few validation batches before training, without effect on random numbers or metrics."""
    steps = run.trainer.num_sanity_val_steps
    if not run.validates or steps == 0 or run.resumed:
        return
    with isolate_rng():
        run.trainer.stage = "sanity"
        try:
            run.hooks.on_sanity_check_start()
            evaluate(run, "validation", math.inf if steps == -1 else steps)
            run.hooks.on_sanity_check_end()
        finally:
            run.trainer.stage = None
            run.metrics.forget()
