"""Writes what `predict_step` returns: a file per process, and a CSV table."""

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import Subset


class PredictionWriter(BasePredictionWriter):
    """Each rank saves rank_N.pt with `predictions`, a list of batches, and `rows`, the
    indices of their samples in the data set, a list per loader.

    Predictions (batch,) or (batch, columns) of a single loader are also written to
    predictions.csv, from all ranks and in the order of the data set. See `table`.
    """

    def __init__(
        self,
        folder: str = "runs/predictions",
        write_interval: Literal["batch", "epoch", "batch_and_epoch"] = "epoch",
    ) -> None:
        super().__init__(write_interval)
        self.folder = Path(folder)

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Any,
        batch_indices: Any,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("rank_*.pt"):  # left by a run with more processes
            if int(old.stem.removeprefix("rank_")) >= trainer.world_size:
                old.unlink(missing_ok=True)
        written = {"predictions": predictions, "rows": batch_indices}
        torch.save(written, self.folder / f"rank_{trainer.global_rank}.pt")
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.write_table(trainer)

    def write_table(self, trainer: Trainer) -> None:
        path = self.folder / "predictions.csv"
        path.unlink(missing_ok=True)  # left by an earlier run
        files = [torch.load(file) for file in self.folder.glob("rank_*.pt")]
        batches = [batch for file in files for batch in file["predictions"]]
        loaders = [loader for file in files for loader in file["rows"]]
        rows = [row for loader in loaders for batch in loader for row in batch]
        tensors = [each for each in batches if isinstance(each, Tensor)]
        if len(tensors) < len(batches) or {*map(Tensor.dim, tensors)} - {1, 2}:
            return  # not a table
        if not rows or len(rows) != sum(map(len, tensors)):  # a stream has none
            return
        given: Any = trainer.predict_dataloaders
        data = (given[0] if isinstance(given, list) else given).dataset
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table(data, rows, torch.cat(tensors)))
        os.replace(partial, path)  # written atomically
        trainer.print(f"table of {len(rows)} predictions written to {path}")


def table(data: Any, rows: list[int], predictions: Tensor) -> Iterator[list[Any]]:
    """A header, then for each sample its id, the prediction, the probability of each
    class, and the true value if it is known.

    A data set may define `ids` and `labels` of its samples, `names` of classes, and
    `columns`, the names of the first two columns. Without ids, row numbers are used.
    """
    whole = data
    while isinstance(whole, Subset):
        whole = whole.dataset
    ids = per_sample(data, "ids", range(sys.maxsize))
    labels = per_sample(data, "labels")
    key, target = getattr(whole, "columns", ("row", "prediction"))
    count = 1 if predictions.ndim == 1 else predictions.shape[1]
    names = getattr(whole, "names", None) if predictions.ndim == 2 else None
    if names:  # the model may have more classes than names
        names = [*names, *map(str, range(len(names), count))]
        columns = [target, *(f"p_{name}" for name in names)]
    elif count == 1:
        columns = [target]
    else:
        columns = [f"{target}_{n}" for n in range(1, count + 1)]
    yield [key, *columns, *(["truth"] if labels is not None else [])]
    predicted = predictions.reshape(-1, count).tolist()
    for row, values in sorted(zip(rows, predicted, strict=True)):
        line = [names[values.index(max(values))]] if names else []
        line += map(rounded, values)
        if labels is not None:
            line.append(names[labels[row]] if names else rounded(labels[row]))
        yield [ids[row], *line]


def per_sample(data: Any, name: str, default: Any = None) -> Any:
    """An attribute with a value per sample, of a data set or a Subset."""
    if isinstance(data, Subset):
        whole = per_sample(data.dataset, name, default)
        return None if whole is None else [whole[row] for row in data.indices]
    return getattr(data, name, default)


def rounded(number: Any) -> Any:
    """A float as text, in the precision of float32; other values unchanged."""
    return f"{number:.7g}" if isinstance(number, float) else number
