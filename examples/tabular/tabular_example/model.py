import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss


class TabularModel(LightningModule):
    """Predicts one number, or with `classes` the scores of each class."""

    def __init__(
        self, features: int = 10, classes: int = 0, width: int = 32, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(
            nn.Linear(features, width),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(width, classes or 1)

    def setup(self, stage: str) -> None:
        for key in ("features", "classes"):
            own = self.hparams[key]
            found = getattr(self.trainer.datamodule, key, own)
            if found != own:
                raise MisconfigurationException(
                    f"the table has {found} {key}, and the model {own}: "
                    f"set model.{key} to {found}, or see data.target and data.classify."
                )

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.backbone(rows)).squeeze(dim=1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        guess, goal = self(batch[0]), batch[1]
        loss = (cross_entropy if self.hparams.classes else mse_loss)(guess, goal)
        right = (guess.argmax(1) == goal).float() if self.hparams.classes else 1 - loss
        self.log_dict({f"{stage}_loss": loss, f"{stage}_score": right.mean()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams.lr, weight_decay=0.1)
