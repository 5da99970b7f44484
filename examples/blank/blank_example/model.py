import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss


class Model(LightningModule):
    def __init__(self, features: int = 8, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        # your network; `self.backbone` is what the callback backbone-finetuning freezes
        self.backbone = nn.Sequential(nn.Linear(features, 16), nn.ReLU())
        self.head = nn.Linear(16, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        # your loss, and the metrics to log
        loss = mse_loss(self(batch[0]), batch[1])
        self.log(f"{stage}_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # your optimizer; with a scheduler, return [optimizer], [scheduler]
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
