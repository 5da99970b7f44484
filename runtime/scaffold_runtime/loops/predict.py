"""Prediction: what `predict_step` returns, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaffold_runtime.data import in_main_memory
from scaffold_runtime.loops.stages import batches_of, hooks_of, not_training, step_of

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def predict(run: Run, keep: bool) -> list[Any] | None:
    """Predict over every loader: a list of outputs in host memory, or a list of lists for several loaders.

    With `keep=False` nothing is collected (a prediction writer handles the outputs) and None is returned.
    """
    hooks = hooks_of(run, "predict")
    loaders = len(run.feed.evaluated("predict"))
    step = step_of(run, "predict", loaders)
    kept: list[list[Any]] = [[] for _ in range(loaders)]
    where = "while predicting, where outputs are returned instead"
    run.metrics.leave(where)
    with not_training(run, "predict"):
        hooks.start()
        hooks.epoch_start()
        for position, batches, loader_args in batches_of(run, "predict"):
            run.metrics.leave(where, ("predict", True, position))
            for index, batch in enumerate(batches):
                batch = run.to_device(batch, position)
                for call in hooks.batch_start:
                    call(batch, index, *loader_args)
                outputs = step(batch, index, position)
                for call in hooks.batch_end:
                    call(outputs, batch, index, *loader_args)
                if keep:
                    kept[position].append(in_main_memory(outputs, run.trainer.device))
        run.metrics.leave(where)
        hooks.epoch_end()
        hooks.end()
    if not keep:
        return None
    kept = [run.feed.in_order(outputs) for outputs in kept]
    return kept[0] if loaders == 1 else kept
