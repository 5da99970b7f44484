"""The column to predict."""

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor

from tabular_example.encode import holds_numbers, spelled


class Target:
    """Classes are 0, 1, ... in the order of their `names`; numbers are standardized by
    `units`, the mean and standard deviation of the training rows."""

    def __init__(self, source: str, column: pandas.Series, classify: bool) -> None:
        gaps = column.isna()
        if gaps.any():
            raise MisconfigurationException(
                f"column {column.name!r} of {source} is the target and has "
                f"gaps in {gaps.sum()} rows, the first is {gaps.idxmax()}: drop these."
            )
        if not classify and not holds_numbers(column):
            raise MisconfigurationException(
                f"column {column.name!r} of {source} holds text, not numbers: "
                "set data.classify to true, or data.target to another column."
            )
        self.name, self.units = str(column.name), (0.0, 1.0)
        self.names = [str(each) for each in sorted(column.unique())] if classify else []
        self.labels = self.values(source, column)

    def values(self, source: str, column: pandas.Series) -> Tensor:
        if not self.names:
            return torch.tensor(column.to_numpy("float32"))
        numbers = {name: number for number, name in enumerate(self.names)}
        found = spelled(column).map(numbers)
        if found.isna().any():
            raise MisconfigurationException(
                f"column {self.name!r} of {source} has {column[found.isna()].iloc[0]!r}"
                f", which is none of the classes to train on: {', '.join(self.names)}."
            )
        return torch.tensor(found.to_numpy("int64"))

    def measure(self, known: Tensor) -> None:
        if not self.names:
            self.units = float(known.mean()), max(float(known.std()), 1e-8)

    def scaled(self, labels: Tensor) -> Tensor:
        mean, spread = self.units
        return labels if self.names else (labels - mean) / spread
