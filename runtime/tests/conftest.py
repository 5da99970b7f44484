"""Every test: one thread, a folder of its own, a fixed seed. Small modules and trainers to work with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.loggers import Logger

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, seeded, and leave torch's global switches as they were."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)


class Regression(LightningModule):
    """Four numbers in, one out. `optimizer` and `scheduler` may be replaced by a test."""

    def __init__(self, lr: float = 0.05, width: int = 8) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Recorder(Logger):
    """A logger that keeps what it is given, in order."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.hparams: list[Any] = []
        self.ended: list[str] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hparams.append(params)

    def finalize(self, status: str) -> None:
        self.ended.append(status)

    def values(self, name: str) -> list[float]:
        return [row[name] for _, row in self.rows if name in row]

    def steps(self, name: str) -> list[int | None]:
        return [step for step, row in self.rows if name in row]


@pytest.fixture
def regression() -> type[Regression]:
    """The class of a small module that can do all four things; subclass it for a variation."""
    return Regression


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_loader() -> Any:
    """`make_loader(batches, size=4, shuffle=False)`: a loader over the same data each time."""

    def make(batches: int = 6, size: int = 4, **kwargs: Any) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(batches * size, 4, generator=generator)
        y = x.sum(1, keepdim=True).tanh()
        return DataLoader(TensorDataset(x, y), batch_size=size, **kwargs)

    return make


@pytest.fixture
def make_trainer() -> Any:
    """`make_trainer(**arguments)`: a Trainer on the CPU that prints and writes nothing unless told to."""

    def make(**arguments: Any) -> Trainer:
        quiet = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        defaults = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1}
        if arguments.get("barebones") or arguments.get("fast_dev_run"):
            quiet = {}
        return Trainer(**{**quiet, **defaults, **arguments})

    return make
