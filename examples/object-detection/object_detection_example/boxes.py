"""Conversion between boxes and maps, which have a cell per 4 x 4 pixels.

Things are at peaks of a map per class, and at a peak four more maps say how far away
the sides of the box are (Zhou et al., Objects as Points, arXiv:1904.07850; distances
as in FCOS, arXiv:1904.01355).
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

STRIDE = 4  # pixels per cell


def heat_of(things: Tensor, classes: int, side: int) -> Tensor:
    """Heat maps (N, classes, side, side) of things (N, K, 5): 1 at each centre."""
    column, row = centres(things, side).unbind(-1)
    away = torch.arange(side, device=things.device)
    widths = ((things[..., 3:] - things[..., 1:3]) / STRIDE / 6).clamp(min=0.4)
    x = (away - column[..., None]) / widths[..., :1]
    y = (away - row[..., None]) / widths[..., 1:]
    heat = (-(x[..., None, :] ** 2 + y[..., None] ** 2) / 2).exp()
    maps = heat.new_zeros(len(things), classes + 1, side, side)
    kinds = things[..., 0].long() % (classes + 1)  # padding rows go into the last
    kinds = kinds[..., None, None].expand_as(heat)
    return maps.scatter_reduce(1, kinds, heat, "amax")[:, :-1]


def centres(things: Tensor, side: int) -> Tensor:
    """The cell (column, row) of each centre, (N, K, 2)."""
    middle = (things[..., 1:3] + things[..., 3:]) / 2 / STRIDE
    return middle.long().clamp(0, side - 1)


def boxes_at(cells: Tensor, distances: Tensor) -> Tensor:
    """Boxes (N, K, 4) in pixels, of cells (N, K, 2) of maps (N, 4, side, side)."""
    places = cells[..., 1] * distances.shape[-1] + cells[..., 0]
    places = places[:, None].expand(-1, 4, -1)
    far = distances.flatten(2).gather(2, places).transpose(1, 2)
    middle = cells + 0.5
    return torch.cat([middle - far[..., :2], middle + far[..., 2:]], -1) * STRIDE


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) and others (..., 4)."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others))
    return both / (sum(areas) - both).clamp(min=1e-6)


def find(heat: Tensor, distances: Tensor, most: int = 50) -> Tensor:
    """The highest peaks of the scores: class, box and confidence, (N, most, 6)."""
    chance = heat.sigmoid()
    peaks = chance * (chance == max_pool2d(chance, 3, stride=1, padding=1))
    side = heat.shape[-1]
    sure, places = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    kinds, places = places // side**2, places % side**2
    boxes = boxes_at(torch.stack([places % side, places // side], -1), distances)
    return torch.cat([kinds[..., None], boxes, sure[..., None]], -1)
