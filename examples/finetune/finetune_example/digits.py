"""Digits in two halves: one with names; in the other, few are known as even or odd."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset


def halves(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images (N, 1, 8, 8) from 0 to 1 with the digits they show, twice."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return [(images[half], labels[half]) for half in order.tensor_split(2)]


def known_digits(seed: int) -> TensorDataset:
    return TensorDataset(*halves(seed)[0])


def split_new_digits(shots: int, seed: int) -> list[TensorDataset]:
    """Even (0) and odd (1) images: `shots` of each to train on, the rest halved."""
    images, labels = halves(seed)[1]
    odd = labels % 2
    of_class = [(odd == label).nonzero()[:, 0] for label in (0, 1)]
    train = torch.cat([places[:shots] for places in of_class])
    others = torch.cat([places[shots:] for places in of_class])
    parts = train, others[::2], others[1::2]
    return [TensorDataset(images[part], odd[part]) for part in parts]
