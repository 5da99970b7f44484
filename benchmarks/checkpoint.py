"""Rows of checkpoints: how long saving a state of 400 MB blocks training, and the cost of saving safely."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from table import Contestant, Row, in_turn
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint

NUMBERS = 100_000_000  # of 4 bytes each


class Big(LightningModule):
    """A small model with a large buffer to save."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("much", torch.ones(NUMBERS))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        time.sleep(0.5)  # so that a save has finished before the next one
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Gap(Callback):
    """Measures from the end of the batch that triggers the second save to the start of the next batch."""

    def on_train_batch_end(self, *args: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 8:
            self.seconds = time.perf_counter() - self.began


def blocked(async_save: bool) -> Contestant:
    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            gap = Gap()
            save = ModelCheckpoint(folder, every_n_train_steps=4, async_save=async_save)
            trainer = Trainer(
                max_steps=9,
                accelerator="cpu",
                logger=False,
                callbacks=[gap, save],
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Big(), DataLoader(TensorDataset(torch.ones(9, 4))))
            return gap.seconds

    return run


def torch_save() -> float:
    """The usual way: without fsync, so a crash can leave an incomplete file."""
    state = Big().state_dict()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        torch.save(state, Path(folder) / "state.pt")
        return time.perf_counter() - began


def rows() -> list[Row]:
    waiting, beside = in_turn(blocked(async_save=False)), in_turn(blocked(async_save=True))
    plain = in_turn(torch_save)
    return [
        Row(
            "async-save",
            "blocked by `async_save` of 400 MB, against waiting for the save",
            0.25,
            "ms",
            {"base": waiting(), "ours": beside()},
            rounds=3,
        ),
        Row(
            "async-save-torch",
            "the same, against `torch.save`",
            None,
            "ms",
            {"base": plain(), "ours": beside()},
            rounds=3,
        ),
        Row(
            "save",
            "a save of 400 MB that survives a power cut, against `torch.save`",
            None,
            "ms",
            {"base": plain(), "ours": waiting()},
            rounds=3,
        ),
    ]
