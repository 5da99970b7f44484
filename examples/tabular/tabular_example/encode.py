"""Encodes columns as numbers; fitted to the training rows only."""

from collections.abc import Iterator

import pandas
import torch
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from torch import Tensor

COMMON = 10  # training rows a text value needs to get an input of its own


class Encoder:
    """Numeric columns are standardized; missing values become the median, and an
    extra input marks them. Text columns are one-hot encoded, missing values included;
    rare and unseen values share one input."""

    def __init__(self, train: pandas.DataFrame) -> None:
        numbers = finite(train[[name for name in train if holds_numbers(train[name])]])
        self.median = numbers.median().fillna(0.0)
        self.gaps = numbers.columns[numbers.isna().any()]
        filled = numbers.fillna(self.median)
        self.mean, self.spread = filled.mean(), filled.std().clip(lower=1e-8)
        text = train.drop(columns=numbers.columns)
        self.values = {name: common(column) for name, column in text.items()}
        self.unused = [name for name, values in self.values.items() if not values]
        rare = (
            ~as_text(text[name]).isin(values) for name, values in self.values.items()
        )
        self.has_rare = [each.name for each in rare if each.any() and not each.all()]

    def __call__(self, table: pandas.DataFrame) -> Tensor:
        """Inputs (rows, features)."""
        numbers = finite(table[self.median.index])
        filled = (numbers.fillna(self.median) - self.mean) / self.spread
        parts = [filled, numbers[self.gaps].isna(), *self.one_hot(table)]
        inputs = pandas.concat(parts, axis="columns")
        return torch.tensor(inputs.to_numpy("float32"))

    def one_hot(self, table: pandas.DataFrame) -> Iterator[pandas.Series]:
        for name, values in self.values.items():
            column = as_text(table[name])
            yield from (column == value for value in values)
            if name in self.has_rare:
                yield ~column.isin(values)


def holds_numbers(column: pandas.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def finite(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Numbers, with infinite values as missing ones."""
    values = numbers.astype("float64")
    return values.where(values.abs() < float("inf"))


def as_text(column: pandas.Series) -> pandas.Series:
    """Values as text, missing ones as an empty string."""
    return column.astype(object).where(column.notna(), "").astype(str)


def common(column: pandas.Series) -> list[str]:
    """Values that occur in at least COMMON rows."""
    counts = as_text(column).value_counts()
    return sorted(counts.index[counts >= COMMON])
