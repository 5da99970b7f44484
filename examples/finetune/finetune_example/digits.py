"""Digits in two halves: 0 to 4 for pretraining, 5 to 9 with few training images."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset


def read_digits() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) from 0 to 1, and the digits they show."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(digits.target)


def known_digits() -> TensorDataset:
    images, labels = read_digits()
    return TensorDataset(images[labels < 5], labels[labels < 5])


def split_new_digits(shots: int, seed: int) -> list[TensorDataset]:
    """Images of 5 to 9: `shots` of each for training, the rest halved."""
    images, labels = read_digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    per_class = [order[labels[order] == digit] for digit in range(5, 10)]
    train = torch.cat([rows[:shots] for rows in per_class])
    rest = torch.cat([rows[shots:] for rows in per_class])
    parts = train, rest[::2], rest[1::2]
    return [TensorDataset(images[part], labels[part] - 5) for part in parts]
