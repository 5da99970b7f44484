"""Sources of series (statsmodels, or a CSV file), and their split into windows."""

from pathlib import Path

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from statsmodels import datasets
from torch import Tensor
from torch.utils.data import TensorDataset


def read_series(source: str, column: str) -> Tensor:
    """The values, oldest first."""
    if source == "co2":  # monthly means of weekly values; gaps are interpolated
        months = datasets.co2.load_pandas().data["co2"].resample("MS").mean()
        values = months.interpolate()
    elif source == "sunspots":
        values = datasets.sunspots.load_pandas().data["SUNACTIVITY"]
    else:
        values = read_column(source, column)
    return torch.tensor(values.to_numpy("float32"))


def read_column(source: str, column: str) -> pandas.Series:
    if Path(source).suffix != ".csv":
        raise MisconfigurationException(
            f"data.source is {source!r}: choose co2, sunspots, "
            "or a file that ends in .csv."
        )
    try:
        table = pandas.read_csv(source)
    except FileNotFoundError:
        raise MisconfigurationException(f"there is no file {source}.") from None
    except ValueError as error:
        raise MisconfigurationException(f"{source} cannot be read: {error}") from None
    if column not in table:
        known = ", ".join(table.columns)
        raise MisconfigurationException(
            f"{source} has no column {column!r}; data.column may be {known}."
        )
    values = table[column]
    if not pandas.api.types.is_numeric_dtype(values) or values.isna().any():
        raise MisconfigurationException(
            f"column {column!r} of {source} has gaps or text: fill or drop them first."
        )
    return values


def split_windows(
    source: str, column: str, history: int, horizon: int
) -> list[TensorDataset]:
    """Training, validation and test windows, in this order of time.

    The values to forecast differ between splits; the inputs may overlap.
    """
    series = read_series(source, column)
    windows = len(series) - history - horizon + 1
    ends = [0, windows * 7 // 10, windows * 85 // 100, windows]
    sizes = [end - start for start, end in zip(ends, ends[1:], strict=False)]
    if min(sizes) <= horizon:
        raise MisconfigurationException(
            f"{len(series)} values are too few to forecast {horizon} from {history}."
        )
    pieces = series.unfold(0, history + horizon, 1)
    parts = [pieces[: ends[1]], pieces[ends[1] : ends[2]], pieces[ends[2] :]]
    parts[1:] = [part[horizon - 1 :] for part in parts[1:]]  # no common targets
    return [TensorDataset(part[:, :history], part[:, history:]) for part in parts]
