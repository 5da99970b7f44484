"""Mean average precision (mAP) of predicted boxes."""

import torch
from torch import Tensor

from object_detection_example.boxes import overlap

BINS = 100  # bins of confidence


def count_hits(
    found: Tensor, things: Tensor, classes: int, least: float = 0.5
) -> Tensor:
    """Counts (3, classes, BINS): true positives, predictions, true boxes; additive.

    A thing (N, K, 5) is matched by the most confident box (N, most, 6) of its class
    whose IoU with it is at least `least`.
    """
    counts = found.new_zeros(3, classes, BINS)
    free, rows = things[..., 0] >= 0, torch.arange(len(found), device=found.device)
    there = things[..., 0][free].long()
    counts[2, :, 0] = there.bincount(minlength=classes)
    kinds = found[..., 0].long()
    bins = (found[..., 5] * BINS).long().clamp(max=BINS - 1)
    for place in range(found.shape[1]):
        box, kind = found[:, place, None, 1:5], found[:, place, :1]
        fits = overlap(box, things[..., 1:]) * (free & (things[..., 0] == kind))
        shared, thing = fits.max(1)
        hit = shared >= least
        free[rows, thing] &= ~hit
        where = kinds[:, place], bins[:, place]
        counts[0].index_put_(where, hit.float(), accumulate=True)
        counts[1].index_put_(where, torch.ones_like(shared), accumulate=True)
    return counts


def mean_average_precision(counts: Tensor) -> Tensor:
    """From counts (..., 3, classes, BINS), summed over processes."""
    right, said, there = counts.reshape(-1, *counts.shape[-3:]).sum(0)
    right, said = (each.flip(1).cumsum(1) for each in (right, said))
    precision = (right / said.clamp(min=1)).flip(1).cummax(1).values.flip(1)
    gained = right.diff(dim=1, prepend=torch.zeros_like(right[:, :1]))
    average = (precision * gained).sum(1) / there.sum(1).clamp(min=1)
    known = there.sum(1) > 0
    return average[known].mean() if known.any() else average.sum()
