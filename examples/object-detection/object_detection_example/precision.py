"""Mean average precision (mAP) of predicted boxes."""

import torch
from torch import Tensor

from object_detection_example.boxes import overlap

BINS = 100  # of confidence


def count_hits(
    found: Tensor, objects: Tensor, classes: int, least: float = 0.5
) -> Tensor:
    """Counts (3, classes, BINS) of true positives, predictions and objects.

    An object (N, K, 5) is matched by the most confident box (N, most, 6) of its class
    whose IoU with it is at least `least`. Counts of batches can be added.
    """
    counts = found.new_zeros(3, classes, BINS)
    unmatched = objects[..., 0] >= 0  # not padding
    images = torch.arange(len(found), device=found.device)
    counts[2, :, 0] = objects[..., 0][unmatched].long().bincount(minlength=classes)
    labels = found[..., 0].long()
    bins = (found[..., 5] * BINS).long().clamp(max=BINS - 1)
    for n in range(found.shape[1]):  # the most confident boxes first
        box, label = found[:, n, None, 1:5], found[:, n, :1]
        candidates = unmatched & (objects[..., 0] == label)
        iou, nearest = (overlap(box, objects[..., 1:]) * candidates).max(1)
        hit = iou >= least
        unmatched[images, nearest] &= ~hit
        index = labels[:, n], bins[:, n]
        counts[0].index_put_(index, hit.float(), accumulate=True)
        counts[1].index_put_(index, torch.ones_like(iou), accumulate=True)
    return counts


def mean_average_precision(counts: Tensor) -> Tensor:
    """From the counts (..., 3, classes, BINS) of one or more processes."""
    hits, predicted, actual = counts.reshape(-1, *counts.shape[-3:]).sum(0)
    # from high to low confidence
    hits, predicted = (each.flip(1).cumsum(1) for each in (hits, predicted))
    precision = (hits / predicted.clamp(min=1)).flip(1).cummax(1).values.flip(1)
    new_hits = hits.diff(dim=1, prepend=torch.zeros_like(hits[:, :1]))
    average = (precision * new_hits).sum(1) / actual.sum(1).clamp(min=1)
    present = actual.sum(1) > 0
    return average[present].mean() if present.any() else average.sum()
