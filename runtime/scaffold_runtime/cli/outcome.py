"""The results of a project's command: a table, or a file."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.columns import aligned
from scaffold_runtime.data import batch_size_of

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

MOST_METRICS = 7


def report_fit(trainer: Trainer, started_in: Path, options: str = "") -> None:
    """Print the final metrics, the paths of what was written, and the command to try next.

    Args:
        trainer: the trainer.
        started_in: paths are shown relative to this folder.
        options: options that the next command needs, too.
    """
    rows = [(name, f"{float(value):.4g}") for name, value in _last_metrics(trainer).items()]
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        rows.append(("best checkpoint", shown_path(best, started_in)))
    if not trainer.fast_dev_run:
        rows.append(("run folder", shown_path(trainer.log_dir, started_in)))
    if best and not hasattr(builtins, "__IPYTHON__"):  # a notebook is no script
        script = shown_path(sys.argv[0], started_in)
        rows.append(("next", f"python {script} test --ckpt_path best{options}"))
    trainer.print("\n".join(aligned(rows)))


def _last_metrics(trainer: Trainer) -> dict[str, Any]:
    """The newest metrics; for a value logged per step and per epoch, only that of the epoch."""
    metrics = trainer.callback_metrics
    names = []
    for name in metrics:
        doubled = name.endswith("_epoch") and name.removesuffix("_epoch") in metrics
        if name.removesuffix("_step") + "_epoch" not in metrics and not doubled:
            names.append(name)
    return {name: metrics[name] for name in names[:MOST_METRICS]}


def save_predictions(trainer: Trainer, predictions: list[Any], started_in: Path) -> None:
    """Write what `predict` returned into the folder of the run, and print how many predictions there are."""
    path = Path(trainer.log_dir) / "predictions.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(predictions, path)
    nested = isinstance(predictions[0], list) and len(trainer.num_predict_batches) > 1
    batches = [batch for loader in predictions for batch in loader] if nested else predictions
    count = sum(batch_size_of(batch) for batch in batches)
    trainer.print(f"{count} predictions written to {shown_path(path, started_in)}")


def shown_path(path: str | os.PathLike[str], started_in: Path) -> str:
    """The shorter of a path's absolute and relative forms, relative to where the program was started."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute, started_in)
    return min(relative, absolute, key=len)
