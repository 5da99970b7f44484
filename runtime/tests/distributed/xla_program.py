"""Run by test_xla.py: what must be the first thing a process does with XLA, in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.errors import RankFailed
from scaffold_runtime.strategies import XLAStrategy
from scaffold_runtime.strategies.xla import run_in_processes

from .deepspeed_program import data


class Small(LightningModule):
    """Two layers; keeps the loss of every step where it was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.losses: list[Tensor] = []
        self.sharding: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if x.device.type == "xla" and len(sys.argv) > 1:
            import torch_xla

            self.sharding.append(torch_xla._XLAC._get_xla_sharding_spec(x))
        loss = nn.functional.mse_loss(self.net(x), y)
        self.losses.append(loss.detach())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def fitted(module: LightningModule, **arguments: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    defaults = {"accelerator": "tpu", "max_epochs": 2, "log_every_n_steps": 1}
    path = arguments.pop("ckpt_path", None)
    made = {**quiet, **defaults, **arguments}
    trainer = Trainer(**made, enable_checkpointing="callbacks" in made)
    trainer.fit(module, data(), data(), ckpt_path=path)
    return trainer


def spmd() -> dict[str, Any]:
    torch.manual_seed(0)
    module = Small()
    trainer = fitted(module, devices=2, strategy=XLAStrategy(spmd=True))
    losses = torch.stack(module.losses).cpu().tolist()
    world = trainer.world_size
    return {"losses": losses, "sharding": module.sharding[0], "world": world}


def where() -> str:
    import torch_xla

    return str(torch_xla.device())


def fails() -> None:
    raise ArithmeticError("in the new process")


def launched() -> dict[str, Any]:
    try:
        run_in_processes(fails)
    except RankFailed as error:
        return {"device": run_in_processes(where), "error": str(error)}
    return {}


if __name__ == "__main__":
    print(json.dumps({"spmd": spmd, "launched": launched}[sys.argv[1]]()))
