import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn


class Forecaster(LightningModule):
    """Forecasts relative to the last value, in units of the deviation of the window."""

    def __init__(
        self, history: int = 36, horizon: int = 12, width: int = 64, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(nn.Linear(history, width), nn.GELU())
        self.head = nn.Linear(width, horizon)
        self.straight = nn.Linear(history, horizon)

    def setup(self, stage: str) -> None:
        own = self.hparams.history, self.hparams.horizon
        found = getattr(self.trainer.datamodule, "lengths", own)
        if found != own:
            raise MisconfigurationException(
                f"data.history and data.horizon are {found}, those of the model {own}: "
                "set model.history and model.horizon to the same values."
            )

    def forward(self, known: Tensor) -> Tensor:
        last, scale = known[:, -1:], known.std(dim=1, keepdim=True) + 1e-6
        inputs = (known - last) / scale
        return last + scale * (self.straight(inputs) + self.head(self.backbone(inputs)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        error = (self(batch[0]) - batch[1]).abs().mean()
        self.log(f"{stage}_mae", error, prog_bar=True)
        return error

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
