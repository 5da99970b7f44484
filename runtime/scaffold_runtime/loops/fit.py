"""Training: epochs of batches, with validation, logging and checkpoints at each commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaffold_runtime.loops.evaluate import sanity_check
from scaffold_runtime.loops.step import build_step
from scaffold_runtime.progress import DONE, UNDER_WAY

if TYPE_CHECKING:
    from scaffold_runtime.run import Run


def fit(run: Run) -> None:
    """Train until a limit is reached or a stop is requested.

    sanity check -> on_train_start -> for each epoch: begin -> for each batch: hooks, step, advance,
    commit -> end -> on_train_end. `commit` is the one place where logs flush, validation runs,
    checkpoints are written and stop requests are honoured. The order is a contract: a checkpoint
    holds the state after a commit, and the next batch is drawn after it.
    """
    hooks, progress, metrics = run.hooks, run.progress, run.metrics
    on_batch_start, on_batch_end = hooks.on_train_batch_start, hooks.on_train_batch_end
    sanity_check(run)
    if not run.start_training():
        return
    step = build_step(run)
    while run.wants_epoch():
        outputs = None
        for batch, last in run.begin_epoch():
            index, progress.pending = progress.batch, UNDER_WAY
            metrics.batch = batch = run.to_device(batch, 0)
            run.is_last_batch = last
            if batch is None:  # a collate function may drop every sample
                run.check_may_skip()
            elif on_batch_start and -1 in [call(batch, index) for call in on_batch_start]:
                run.check_all_end_epoch()
                progress.pending = DONE  # no step began, so a checkpoint is complete
                break
            outputs, updated = step(batch, index, last)
            progress.advance(updated)
            for call in on_batch_end:
                call(outputs, batch, index)
            run.commit(outputs, updated)
            if run.stopping:
                break
        run.end_epoch(outputs)
    run.end_training()
