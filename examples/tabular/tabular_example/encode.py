"""Encodes columns as numbers; fitted on the training rows only."""

from collections.abc import Iterator

import pandas
import torch
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from torch import Tensor

COMMON = 10  # training rows that must have a value, for it to be an input


class Encoder:
    """Numeric columns are standardized; missing values become the median, and an
    extra input marks them. Text columns are one-hot encoded, missing values included;
    rare and unseen values share one input."""

    def __init__(self, known: pandas.DataFrame) -> None:
        numbers = finite(known[[name for name in known if holds_numbers(known[name])]])
        self.median = numbers.median().fillna(0.0)
        self.gaps = numbers.columns[numbers.isna().any()]
        filled = numbers.fillna(self.median)
        self.mean, self.spread = filled.mean(), filled.std().clip(lower=1e-8)
        words = known.drop(columns=numbers.columns)
        self.words = {name: common(column) for name, column in words.items()}
        self.unused = [name for name, found in self.words.items() if not found]
        shared = (
            ~spelled(words[name]).isin(found) for name, found in self.words.items()
        )
        self.sharing = [each.name for each in shared if each.any() and not each.all()]

    def __call__(self, table: pandas.DataFrame) -> Tensor:
        """Inputs (rows, features)."""
        numbers = finite(table[self.median.index])
        filled = (numbers.fillna(self.median) - self.mean) / self.spread
        parts = [filled, numbers[self.gaps].isna(), *self.of_words(table)]
        together = pandas.concat(parts, axis="columns")
        return torch.tensor(together.to_numpy("float32"))

    def of_words(self, table: pandas.DataFrame) -> Iterator[pandas.Series]:
        for name, words in self.words.items():
            column = spelled(table[name])
            yield from (column == word for word in words)
            if name in self.sharing:
                yield ~column.isin(words)


def holds_numbers(column: pandas.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def finite(numbers: pandas.DataFrame) -> pandas.DataFrame:
    """Infinite values count as missing."""
    values = numbers.astype("float64")
    return values.where(values.abs() < float("inf"))


def spelled(column: pandas.Series) -> pandas.Series:
    """Values as text, missing ones as an empty string."""
    return column.astype(object).where(column.notna(), "").astype(str)


def common(column: pandas.Series) -> list[str]:
    counts = spelled(column).value_counts()
    return sorted(counts.index[counts >= COMMON])
