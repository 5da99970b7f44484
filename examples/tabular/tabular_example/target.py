"""The column to predict."""

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor

from tabular_example.encode import as_text, holds_numbers


class Target:
    """Classes are numbered in the order of their `names`. Numbers are standardized by
    `units`, the mean and standard deviation of the training rows."""

    def __init__(self, source: str, column: pandas.Series, classify: bool) -> None:
        gaps = column.isna()
        if gaps.any():
            raise MisconfigurationException(
                f"column {column.name!r} of {source} is the target and has "
                f"gaps in {gaps.sum()} rows, the first is {gaps.idxmax()}: drop them."
            )
        if not classify and not holds_numbers(column):
            raise MisconfigurationException(
                f"column {column.name!r} of {source} holds text, not numbers: "
                "set data.classify to true, or data.target to another column."
            )
        self.name, self.units = str(column.name), (0.0, 1.0)
        self.names = [str(each) for each in sorted(column.unique())] if classify else []
        self.values = self.encode(source, column)

    def encode(self, source: str, column: pandas.Series) -> Tensor:
        if not self.names:
            return torch.tensor(column.to_numpy("float32"))
        numbers = {name: number for number, name in enumerate(self.names)}
        codes = as_text(column).map(numbers)
        if codes.isna().any():
            raise MisconfigurationException(
                f"column {self.name!r} of {source} has {column[codes.isna()].iloc[0]!r}"
                f", which is none of the training classes: {', '.join(self.names)}."
            )
        return torch.tensor(codes.to_numpy("int64"))

    def fit_units(self, train: Tensor) -> None:
        if not self.names:
            self.units = float(train.mean()), max(float(train.std()), 1e-8)

    def scaled(self, values: Tensor) -> Tensor:
        mean, deviation = self.units
        return values if self.names else (values - mean) / deviation
