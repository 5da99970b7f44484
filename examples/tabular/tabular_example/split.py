"""Training, validation and test rows, as tensor data sets."""

from typing import Any

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.utilities import rank_zero_only
from torch.utils.data import TensorDataset

from tabular_example.encode import Encoder
from tabular_example.fold import one_fold
from tabular_example.tables import read_labelled, read_like
from tabular_example.target import Target


def split_table(
    stage: str,
    source: str,
    target: str,
    classify: bool,
    id: str | None,
    test: str | None,
    seed: int,
    fold: int | None,
    folds: int,
) -> list[Any]:
    """Training, validation and test sets. With a file `test`, it is the third."""
    table = read_labelled(source, target, id)
    labels = Target(source, table[target], classify)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    ends = [len(table) * share // 100 for share in ([85, 100] if test else [70, 85])]
    train, val, rest = (part.tolist() for part in order.tensor_split(ends))
    train, val = one_fold(train, val, labels.values.tolist(), fold, folds)
    labels.fit_units(labels.values[train])
    excluded = [target, id] if id else [target]
    encoder = Encoder(table.iloc[train].drop(columns=excluded))
    tested = read_like(source, table, excluded, test) if test else table.iloc[rest]
    parts = [(table.iloc[train], source), (table.iloc[val], source)]
    parts.append((tested, test or source))
    check(stage, parts, encoder, target)
    return [data_set(*part, encoder, labels, id) for part in parts]


def check(stage: str, parts: list[Any], encoder: Encoder, target: str) -> None:
    (train, source), _, (tested, test) = parts
    if not encoder(train).shape[1]:
        raise MisconfigurationException(f"{source} has no column to learn from.")
    if stage == "test" and target not in tested:
        raise MisconfigurationException(
            f"{test} has no {target!r} to test with; `train.py predict` needs none."
        )
    if stage == "fit" and encoder.unused:
        left = ", ".join(encoder.unused)
        rank_zero_only(print)(f"columns left out, all their values are rare: {left}")


def data_set(
    rows: pandas.DataFrame,
    source: str,
    encoder: Encoder,
    target: Target,
    id: str | None,
) -> Any:
    """Inputs, and targets if known. For the prediction writer, also the attributes
    `ids`, true `labels`, `names` of classes, and names of the first two `columns`."""
    result: Any = TensorDataset(encoder(rows))
    if target.name in rows:
        values = target.encode(source, rows[target.name])
        result.tensors += (target.scaled(values),)
        result.labels = values.tolist()
    result.ids = (rows[id] if id else rows.index).tolist()
    result.names, result.units = target.names, target.units
    result.columns = (id or "row", target.name)
    return result


def sizes(parts: list[Any]) -> tuple[int, int, tuple[float, float]]:
    """Number of inputs; of classes, or 0; mean and standard deviation of targets."""
    return parts[0].tensors[0].shape[1], len(parts[0].names), parts[0].units
