"""Macro-F1: how well each class is found, all classes counting the same."""

import torch
from torch import Tensor


def f1_counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Per class (3, classes): found rightly, said, there. Counts of batches add up."""
    kinds = predicted[predicted == labels], predicted, labels
    return torch.stack([each.bincount(minlength=classes) for each in kinds]).float()


def macro_f1(counts: Tensor) -> Tensor:
    """From counts (..., 3, classes); those of several processes are added first."""
    right, said, there = counts.reshape(-1, 3, counts.shape[-1]).sum(dim=0)
    return (2 * right / (said + there).clamp(min=1)).mean()
