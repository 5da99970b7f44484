"""A U-Net: an encoder, a decoder, and skip connections between them."""

import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    interpolate,
    max_pool2d,
)


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Images (N, 1, H, W) of at least 4 x 4 pixels to logits of the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.top, self.middle = block(1, width), block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.up_middle = block(6 * width, 2 * width)
        self.up_top = block(3 * width, width)
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        top = self.top(images)
        middle = self.middle(max_pool2d(top, 2))
        bottom = self.bottom(max_pool2d(middle, 2))
        middle = self.up_middle(join(bottom, middle))
        return self.out(self.up_top(join(middle, top)))


def join(small: Tensor, large: Tensor) -> Tensor:
    return torch.cat([interpolate(small, large.shape[2:]), large], dim=1)


def dice_score(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice score (N,) of each image: 1 if the predicted mask equals the true one."""
    predicted = (logits > 0).float()
    intersection = (predicted * masks).sum((1, 2, 3))
    total = (predicted + masks).sum((1, 2, 3))
    return (2 * intersection + 1) / (total + 1)  # 1 if both masks are empty


class Segmenter(LightningModule):
    def __init__(self, width: int = 12, lr: float = 4e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = UNet(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]) > 0

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        logits, masks = self(batch[0]), batch[1]
        loss = binary_cross_entropy_with_logits(logits, masks)
        dice = dice_score(logits, masks).mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_dice": dice}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
