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
    """Each rank writes `predictions`, batch by batch, and `rows`: the indices of their
    samples in the data set, in a list per loader.

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
        for old in self.folder.glob("rank_*.pt"):  # of a run with more processes
            if int(old.stem.removeprefix("rank_")) >= trainer.world_size:
                old.unlink(missing_ok=True)
        written = {"predictions": predictions, "rows": batch_indices}
        torch.save(written, self.folder / f"rank_{trainer.global_rank}.pt")
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self.write_table(trainer)

    def write_table(self, trainer: Trainer) -> None:
        path = self.folder / "predictions.csv"
        path.unlink(missing_ok=True)  # of an earlier run
        files = [torch.load(file) for file in self.folder.glob("rank_*.pt")]
        batches = [batch for file in files for batch in file["predictions"]]
        kept = [batch for file in files for loader in file["rows"] for batch in loader]
        rows = [row for batch in kept for row in batch]
        tensors = [each for each in batches if isinstance(each, Tensor)]
        if len(tensors) < len(batches) or {*map(Tensor.dim, tensors)} - {1, 2}:
            return
        if not rows or len(rows) != sum(map(len, tensors)):  # a stream has no rows
            return
        given: Any = trainer.predict_dataloaders
        data = (given[0] if isinstance(given, list) else given).dataset
        half = path.with_suffix(".half")
        with half.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table(data, rows, torch.cat(tensors)))
        os.replace(half, path)
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
    ids, labels = of_each(data, "ids", range(sys.maxsize)), of_each(data, "labels")
    key, goal = getattr(whole, "columns", ("row", "prediction"))
    count = 1 if predictions.ndim == 1 else predictions.shape[1]
    names = getattr(whole, "names", None) if predictions.ndim == 2 else None
    if names:  # the model may have more
        names = [*names, *map(str, range(len(names), count))]
        columns = [goal, *(f"p_{name}" for name in names)]
    else:
        columns = [goal] if count == 1 else [f"{goal}_{n}" for n in range(1, count + 1)]
    predicted = predictions.reshape(-1, count).tolist()
    yield [key, *columns, *(["truth"] if labels is not None else [])]
    for row, said in sorted(zip(rows, predicted, strict=True)):
        line = [names[said.index(max(said))]] if names else []
        line += map(shown, said)
        if labels is not None:
            line.append(names[labels[row]] if names else shown(labels[row]))
        yield [ids[row], *line]


def of_each(data: Any, name: str, otherwise: Any = None) -> Any:
    """An attribute of a data set that has one value per sample, also of a Subset."""
    if isinstance(data, Subset):
        whole = of_each(data.dataset, name, otherwise)
        return None if whole is None else [whole[row] for row in data.indices]
    return getattr(data, name, otherwise)


def shown(number: Any) -> Any:
    """Rounded to the precision of float32."""
    return f"{number:.7g}" if isinstance(number, float) else number
