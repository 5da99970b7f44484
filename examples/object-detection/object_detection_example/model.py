"""An anchor-free detector: maps of object centres, and of distances to the sides."""

import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn

from object_detection_example.boxes import find
from object_detection_example.loss import detection_loss
from object_detection_example.precision import BINS, count_hits, mean_average_precision

RARE = 4  # subtracted from logits: most cells are empty, so scores start low


def block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class Detector(LightningModule):
    def __init__(self, classes: int = 10, width: int = 24, lr: float = 4e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        wide = 2 * width
        self.backbone = nn.Sequential(
            block(3, width, stride=2),
            block(width, wide, stride=2),
            *(block(wide, wide) for _ in range(4)),
        )
        self.heat, self.sides = nn.Conv2d(wide, classes, 1), nn.Conv2d(wide, 4, 1)
        self.counts = torch.zeros(3, classes, BINS)

    def setup(self, stage: str) -> None:
        found = len(getattr(self.trainer.datamodule, "names", ()))
        if found > self.hparams.classes:
            raise MisconfigurationException(
                f"the data have {found} classes, and the model has "
                f"{self.hparams.classes}: set model.classes to {found}."
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and distances, a quarter of the size of images (N, 3, H, W)."""
        features = self.backbone(images)
        return self.heat(features) - RARE, self.sides(features).clamp(max=5).exp()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        heat, distances = self(batch[0])
        loss = detection_loss(heat, distances, batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.counts = torch.zeros(3, self.hparams.classes, BINS, device=self.device)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.step(batch, "test")

    def step(self, batch: list[Tensor], stage: str) -> None:
        (heat, distances), objects = self(batch[0]), batch[1]
        found = find(heat, distances)
        self.counts += count_hits(found, objects, self.hparams.classes)
        loss = detection_loss(heat, distances, objects)
        self.log(f"{stage}_loss", loss, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        score = mean_average_precision(self.all_gather(self.counts))
        self.log("val_map", score, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self.log("test_map", mean_average_precision(self.all_gather(self.counts)))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return find(*self(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
