import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn


class Forecaster(LightningModule):
    """Forecasts a series, normalized by mean and deviation of the input window."""

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
                "set model.history and model.horizon to the same."
            )

    def forward(self, known: Tensor) -> Tensor:
        last, spread = known[:, -1:], known.std(dim=1, keepdim=True) + 1e-6
        shape = (known - last) / spread
        return last + spread * (self.straight(shape) + self.head(self.backbone(shape)))

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
