"""The loss: focal loss of centres, and overlap of boxes."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from object_detection_example.boxes import boxes_at, centres, heat_of, overlap


def detection_loss(heat: Tensor, distances: Tensor, things: Tensor) -> Tensor:
    """Per thing: focal loss of scores (arXiv:1904.07850, eq. 1), and 1 - overlap."""
    wanted = heat_of(things, heat.shape[1], heat.shape[-1])
    missed = (1 - heat.sigmoid()) ** 2 * logsigmoid(heat)
    imagined = (1 - wanted) ** 4 * heat.sigmoid() ** 2 * logsigmoid(-heat)
    focal = -torch.where(wanted == 1, missed, imagined).sum()
    there, cells = things[..., 0] >= 0, centres(things, heat.shape[-1])
    boxes = boxes_at(cells, distances)
    apart = (1 - overlap(boxes, things[..., 1:]))[there].sum()
    return (focal + apart) / there.sum().clamp(min=1)
