"""Conversion between boxes and maps, which have a cell per 4 x 4 pixels.

An object (class, left, top, right, bottom) is a peak in the heat map of its class. At
the peak, four more maps hold the distances to the sides of its box, in cells (Zhou et
al., Objects as Points, arXiv:1904.07850; distances as in FCOS, arXiv:1904.01355).
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

STRIDE = 4  # pixels per cell


def heat_of(objects: Tensor, classes: int, side: int) -> Tensor:
    """Heat maps (N, classes, side, side) of objects (N, K, 5): 1 at each centre."""
    column, row = centres(objects, side).unbind(-1)
    cells = torch.arange(side, device=objects.device)
    widths = ((objects[..., 3:] - objects[..., 1:3]) / STRIDE / 6).clamp(min=0.4)
    x = (cells - column[..., None]) / widths[..., :1]
    y = (cells - row[..., None]) / widths[..., 1:]
    heat = (-(x[..., None, :] ** 2 + y[..., None] ** 2) / 2).exp()
    maps = heat.new_zeros(len(objects), classes + 1, side, side)
    labels = objects[..., 0].long() % (classes + 1)  # -1, padding, is an extra class
    labels = labels[..., None, None].expand_as(heat)
    return maps.scatter_reduce(1, labels, heat, "amax")[:, :-1]


def centres(objects: Tensor, side: int) -> Tensor:
    """The cell (column, row) of the centre of each object: (N, K, 2)."""
    middle = (objects[..., 1:3] + objects[..., 3:]) / 2 / STRIDE
    return middle.long().clamp(0, side - 1)


def boxes_at(cells: Tensor, distances: Tensor) -> Tensor:
    """Boxes (N, K, 4) in pixels at cells (N, K, 2) of distances (N, 4, side, side)."""
    index = cells[..., 1] * distances.shape[-1] + cells[..., 0]
    index = index[:, None].expand(-1, 4, -1)
    sides = distances.flatten(2).gather(2, index).transpose(1, 2)
    centre = cells + 0.5
    return torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], -1) * STRIDE


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (IoU) of boxes (..., 4) and others (..., 4)."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return shared / (sum(areas) - shared).clamp(min=1e-6)


def find(heat: Tensor, distances: Tensor, most: int = 50) -> Tensor:
    """The highest peaks of logits `heat`: class, box and confidence (N, most, 6)."""
    scores = heat.sigmoid()
    peaks = scores * (scores == max_pool2d(scores, 3, stride=1, padding=1))
    side = heat.shape[-1]
    confidence, index = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    labels, cell = index // side**2, index % side**2
    boxes = boxes_at(torch.stack([cell % side, cell // side], -1), distances)
    return torch.cat([labels[..., None], boxes, confidence[..., None]], -1)
