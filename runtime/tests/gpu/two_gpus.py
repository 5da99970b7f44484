"""Run by test_two_gpus.py: a fit on two devices, stopped in the middle and resumed, and what came of it as JSON.

A script of its own, as people have them: the strategy runs it again for the second process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import stand_in  # noqa: F401 # before torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import Callback, LightningModule, Trainer, seed_everything
from scaffold_runtime.callbacks import LearningRateMonitor, ModelCheckpoint
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.strategies import FSDPStrategy

WAITING_IS_AN_ERROR = 2


class Small(LightningModule):
    """Dropout draws on the device, statistics are kept there, and each process logs a number of its own."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(dropout), nn.Linear(16, 1)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class NoWaiting(Callback):
    """From the fourth batch to the validation, waiting for the device is an error."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # fmt: skip
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 2 else "default")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        assert torch.cuda.get_sync_debug_mode() == WAITING_IS_AN_ERROR
        torch.cuda.set_sync_debug_mode("default")


class Large(Small):
    """Eight layers of 4 MB, which are made without memory if `empty`."""

    def __init__(self, empty: bool) -> None:
        super().__init__(0.0)
        self.empty = empty

    def configure_model(self) -> None:
        with torch.device("meta" if self.empty else "cpu"):
            middle = [nn.Linear(1024, 1024) for _ in range(8)]
            self.net = nn.Sequential(nn.Linear(4, 1024), *middle, nn.Linear(1024, 1))


class Peak(Callback):
    """The most memory that was in use when training began."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.megabytes = torch.cuda.max_memory_allocated() / 2**20


def data(batches: int) -> DataLoader[Any]:
    x = torch.randn(batches * 8, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 4, shuffle=True, pin_memory=True)


def fit(case: dict[str, Any], folder: Path, **again: Any) -> Trainer:
    seed_everything(again.pop("seed", 1))
    saving = ModelCheckpoint(folder, filename="mid", every_n_train_steps=5)
    waits = case.get("watched", False)  # where something is saved, it may
    callbacks: list[Callback] = [LearningRateMonitor(), NoWaiting() if waits else saving]
    arguments: dict[str, Any] = {
        "accelerator": "gpu",
        "devices": 2,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
    }
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    if case.get("sharded"):
        arguments["strategy"] = FSDPStrategy(state_dict_type="sharded")
    trainer = Trainer(
        **{**arguments, **quiet, **case["trainer"]},
        max_steps=again.pop("max_steps", -1),
        logger=CSVLogger(folder),
        default_root_dir=folder,
        enable_checkpointing=not waits,
        callbacks=callbacks,
        log_every_n_steps=3,
    )
    module = Small(case.get("dropout", 0.3))
    trainer.fit(module, data(8), data(2), **again)
    return trainer


def place(case: dict[str, Any]) -> float:
    """Divide a large model layer by layer, and train it for a batch."""
    strategy, peak = FSDPStrategy(auto_wrap_policy={nn.Linear}), Peak()
    trainer = Trainer(
        accelerator="gpu", devices=2, strategy=strategy, fast_dev_run=True, callbacks=peak
    )
    trainer.fit(Large(case["empty"]), data(2))
    return peak.megabytes


def main() -> None:
    case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    if "empty" in case:
        megabytes = place(case)
        (folder / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(megabytes))
        return
    trainer = fit(case, folder / "whole")
    found: dict[str, Any] = {"metrics": {n: float(v) for n, v in trainer.callback_metrics.items()}}
    if not case.get("watched"):
        fit(case, folder / "stopped", max_steps=5)
        middle = next((folder / "stopped").glob("mid*"))
        again = fit(case, folder / "again", ckpt_path=middle, seed=99)
        found["again"] = {n: float(v) for n, v in again.callback_metrics.items()}
    found["device"] = str(trainer.strategy.root_device)
    (folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
