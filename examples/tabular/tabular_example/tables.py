"""Where tables come from: scikit-learn, or a CSV or Parquet file."""

from pathlib import Path

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from sklearn import datasets
from torch import Tensor
from torch.utils.data import TensorDataset

SHIPPED = {
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
}
READERS = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}


def split_table(
    source: str, target: str, classify: bool, seed: int
) -> list[TensorDataset]:
    """Rows to train, validate and test with, in units of what the first ones spread."""
    inputs, goals = read_table(source, target, classify)
    if len(inputs) < 10:
        raise MisconfigurationException(f"{source} has {len(inputs)} rows: too few.")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    train, val, test = order.tensor_split(
        [len(order) * 7 // 10, len(order) * 85 // 100]
    )
    inputs = normalise(inputs, inputs[train])
    goals = goals if classify else normalise(goals, goals[train])
    return [TensorDataset(inputs[rows], goals[rows]) for rows in (train, val, test)]


def sizes(parts: list[TensorDataset]) -> tuple[int, int]:
    """How many features there are, and how many classes: none in a regression."""
    goals = torch.cat([part.tensors[1] for part in parts])
    features = parts[0].tensors[0].shape[1]
    return features, 0 if goals.is_floating_point() else int(goals.max()) + 1


def normalise(values: Tensor, known: Tensor) -> Tensor:
    """Shift and scale by what is known: nothing is learned from the other rows."""
    return (values - known.mean(0)) / known.std(0).clamp(min=1e-8)


def read_table(source: str, target: str, classify: bool) -> tuple[Tensor, Tensor]:
    """Numbers (rows, features), and what to predict: classes 0, 1, ... or numbers."""
    table = read(source)
    if target not in table:
        known = ", ".join(map(str, table.columns))
        raise MisconfigurationException(
            f"{source} has no column {target!r}; data.target may be {known}."
        )
    values, goal = table.drop(columns=target), table[target]
    if classify:
        goal = goal.astype("category").cat.codes.astype("int64")
    for column in [*values.items(), (target, goal)]:
        check(source, *column)
    inputs = torch.tensor(values.to_numpy("float32"))
    return inputs, torch.tensor(goal.to_numpy("int64" if classify else "float32"))


def read(source: str) -> pandas.DataFrame:
    if source in SHIPPED:
        return SHIPPED[source](as_frame=True).frame
    reader = READERS.get(Path(source).suffix)
    if reader is None:
        raise MisconfigurationException(
            f"data.source is {source!r}: choose {', '.join(SHIPPED)}, "
            "or a file that ends in .csv or .parquet."
        )
    try:
        frame = reader(source)
    except FileNotFoundError:
        raise MisconfigurationException(f"there is no file {source}.") from None
    except (ValueError, OSError, ImportError) as error:
        raise MisconfigurationException(f"{source} cannot be read: {error}") from None
    if frame.empty:
        raise MisconfigurationException(f"{source} has no rows.")
    return frame


def check(source: str, name: str, column: pandas.Series) -> None:
    if not pandas.api.types.is_numeric_dtype(column):
        raise MisconfigurationException(
            f"column {name!r} of {source} holds text: turn it into numbers first, "
            "or set data.classify to true if it is the target."
        )
    if column.isna().any():
        raise MisconfigurationException(
            f"column {name!r} of {source} has gaps: fill them or drop their rows."
        )
