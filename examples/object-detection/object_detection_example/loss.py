"""The loss: focal loss of the heat maps, and IoU loss of the boxes."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from object_detection_example.boxes import boxes_at, centres, heat_of, overlap


def detection_loss(heat: Tensor, distances: Tensor, objects: Tensor) -> Tensor:
    """Per object: focal loss of logits (arXiv:1904.07850, eq. 1), and 1 - IoU."""
    target = heat_of(objects, heat.shape[1], heat.shape[-1])
    missed = (1 - heat.sigmoid()) ** 2 * logsigmoid(heat)
    false_alarm = (1 - target) ** 4 * heat.sigmoid() ** 2 * logsigmoid(-heat)
    focal = -torch.where(target == 1, missed, false_alarm).sum()
    boxes = boxes_at(centres(objects, heat.shape[-1]), distances)
    real = objects[..., 0] >= 0  # not padding
    iou_loss = (1 - overlap(boxes, objects[..., 1:]))[real].sum()
    return (focal + iou_loss) / real.sum().clamp(min=1)
