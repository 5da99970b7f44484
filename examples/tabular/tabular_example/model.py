from typing import Any

import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss


class TabularModel(LightningModule):
    """Predicts a number, or logits of classes. Sizes of 0 are taken from the data."""

    def __init__(
        self, features: int = 0, classes: int = 0, width: int = 32, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        for key in ("features", "classes"):
            own = self.hparams[key]
            found = getattr(self.trainer.datamodule, key, own)
            if own and found != own:
                raise MisconfigurationException(
                    f"the table has {found} {key}, and the model {own}: set model.{key}"
                    f" to {found} or 0 (automatic), or check data.target and classify."
                )
            self.hparams[key] = found

    def configure_model(self) -> None:
        if hasattr(self, "head"):  # built in an earlier run
            return
        layers: list[nn.Module] = []
        for size in (self.hparams.features, self.hparams.width):
            layer = nn.Linear(size, self.hparams.width)
            layers += [layer, nn.GELU(), nn.Dropout(0.2)]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Linear(self.hparams.width, self.hparams.classes or 1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.backbone(rows)).squeeze(dim=1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Probabilities of the classes, or numbers in the units of the table."""
        output = self(batch[0])
        data: Any = self.trainer.datamodule
        mean, deviation = data.units
        return output.softmax(1) if self.hparams.classes else output * deviation + mean

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        output, target = self(batch[0]), batch[1]
        if self.hparams.classes:
            loss = cross_entropy(output, target)
            score = (output.argmax(1) == target).float().mean()  # accuracy
        else:
            loss = mse_loss(output, target)
            score = 1 - loss  # R2, since targets are standardized
        self.log(f"{stage}_loss", loss)
        self.log(f"{stage}_score", score, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams.lr, weight_decay=0.1)
