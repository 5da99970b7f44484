"""Macro-F1: the F1 score averaged over classes."""

import torch
from torch import Tensor


def f1_counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts (3, classes): true positives, predictions, labels. They can be added."""
    parts = predicted[predicted == labels], predicted, labels
    return torch.stack([each.bincount(minlength=classes) for each in parts]).float()


def macro_f1(counts: Tensor) -> Tensor:
    """From the counts (..., 3, classes) of one or more processes."""
    hits, predicted, actual = counts.reshape(-1, 3, counts.shape[-1]).sum(dim=0)
    return (2 * hits / (predicted + actual).clamp(min=1)).mean()
