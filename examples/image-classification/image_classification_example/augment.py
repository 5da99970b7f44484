"""Image augmentation."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def augment(images: Tensor, turn: float = 0.2, shift: float = 0.15) -> Tensor:
    """Rotate by up to `turn` radians; shift by up to `shift` half side lengths."""
    random = torch.empty(len(images), 3).uniform_(-1, 1).to(images)
    angle, move = turn * random[:, 0], shift * random[:, 1:, None]
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
    affine = torch.cat([rows.view(-1, 2, 2), move], dim=2)
    grid = affine_grid(affine, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)
