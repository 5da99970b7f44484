"""A baseline: the seasonal naive forecast, which repeats the last season."""

from typing import Any

from scaffold_runtime import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import TensorDataset


class SeasonalNaive(Callback):
    """Prints the mean absolute error of the model and the baseline."""

    def __init__(self, season: int = 12) -> None:
        self.season = season

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "test")

    def compare(self, trainer: Trainer, stage: str) -> None:
        if f"{stage}_mae" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        windows: TensorDataset = getattr(data, stage)
        known, future = windows.tensors
        naive = (seasonal(known, future.shape[1], self.season) - future).abs().mean()
        error = float(trainer.callback_metrics[f"{stage}_mae"])
        trainer.print(f"{stage}_mae {error:.3f}, seasonal naive {naive:.3f}")


def seasonal(known: Tensor, horizon: int, season: int) -> Tensor:
    """The last season of each row (windows, history), repeated."""
    season = min(season, known.shape[1])
    return known[:, -season:].repeat(1, horizon // season + 1)[:, :horizon]
