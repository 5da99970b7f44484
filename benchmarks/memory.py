"""The row of peak memory: the peak resident size of a training process (plain loop, ours, Lightning).

Run with the name of a contestant, it trains and prints that size in bytes.
"""

from __future__ import annotations

import importlib
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from processes import execute, python
from table import Contestant, Row, installed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WIDTH, DEPTH, STEPS = 1024, 16, 20  # 17 million weights: 270 MB with gradients and Adam's state
FRAMEWORKS = {"ours": "scaffold_runtime", "Lightning": "lightning.pytorch"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16 * STEPS, WIDTH)), 16)


def plain() -> None:
    model, data = network(), batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for (inputs,) in data:
        optimizer.zero_grad()
        F.mse_loss(model(inputs), inputs).backward()
        optimizer.step()


def fit(framework: str) -> None:
    package: Any = importlib.import_module(framework)

    class Model(package.LightningModule):  # type: ignore[misc, name-defined] # either framework
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = F.mse_loss(self.network(batch[0]), batch[0])
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    with tempfile.TemporaryDirectory() as folder:
        loggers = importlib.import_module(f"{framework}.loggers")
        package.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, logger=loggers.CSVLogger(folder),
            default_root_dir=folder, enable_checkpointing=False,
        ).fit(Model(), batches())  # fmt: skip


def peak(who: str) -> Contestant:
    """Peak memory of a training in another process, in bytes."""
    words = python(__file__, who)
    return lambda: float(execute(words, Path(tempfile.gettempdir())).split()[-1])


def rows() -> list[Row]:
    who = [name for name in ("base", *FRAMEWORKS) if name != "Lightning" or installed(name)]
    contestants = {name: peak(name) for name in who}
    return [
        Row(
            "memory",
            "peak memory of a fit, AdamW, defaults without checkpoint",
            1.02,
            "MB",
            contestants,
            rounds=3,
            peer_rounds=1,
            warm_up=False,
        )
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    plain() if sys.argv[1] == "base" else fit(FRAMEWORKS[sys.argv[1]])
    print(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
    )
