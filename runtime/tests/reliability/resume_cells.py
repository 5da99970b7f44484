"""What can be combined: data, and settings of a run, with a model that has every kind of state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from scaffold_runtime import LightningDataModule, LightningModule
from scaffold_runtime.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from scaffold_runtime.combined import CombinedLoader

SAMPLES, SIZE = 20, 4


class Noisy(Dataset):
    """Samples with random augmentation from all three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(4) + random.random() + float(np.random.rand())
        return torch.full((4,), index / SAMPLES) + 0.1 * noise, torch.tensor([index % 2])


class Stream(IterableDataset):
    """Shuffled through a buffer, without a length, and able to say where it is."""

    def __init__(self, n: int = SAMPLES) -> None:
        self.n, self.position, self.epoch, self.buffer = n, 0, 0, []

    def __iter__(self) -> Iterator[Any]:
        if self.position >= self.n and not self.buffer:
            self.position = 0
            self.epoch += 1
        while self.position < self.n or self.buffer:
            while self.position < self.n and len(self.buffer) < 6:
                self.buffer.append(self.position + 100 * self.epoch)
                self.position += 1
            number = self.buffer.pop(random.randrange(len(self.buffer)))
            yield torch.rand(4) * 0.1 + number / 100, torch.tensor([number % 2])

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "epoch": self.epoch, "buffer": self.buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.epoch, self.buffer = state["position"], state["epoch"], state["buffer"]


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.n


class Plain(IterableDataset):
    """A stream that cannot say where it is, but yields the same each time; it draws nothing."""

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        share = slice(info.id, None, info.num_workers) if info else slice(None)
        for i in range(SAMPLES)[share]:
            yield torch.full((4,), i / SAMPLES), torch.tensor([i % 2])


class NoisyPlain(Plain):
    """The same with augmentation, for workers."""

    def __iter__(self) -> Iterator[Any]:
        for x, y in super().__iter__():
            yield x + torch.rand(4), y


class Model(LightningModule):
    """Dropout, running statistics, a buffer that is not saved, metrics, and every kind of logging."""

    def __init__(self, schedule: str = "none", optimizer: str = "adam") -> None:
        super().__init__()
        self.schedule, self.optimizer = schedule, optimizer
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU())
        self.head = nn.Linear(8, 2)
        self.register_buffer("center", torch.zeros(4), persistent=False)
        self.accuracy = torchmetrics.MetricCollection(
            [torchmetrics.Accuracy("multiclass", num_classes=2, average="macro"),
             torchmetrics.F1Score("multiclass", num_classes=2, average="macro")]
        )  # fmt: skip
        self.mean = torchmetrics.MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x - self.center))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if isinstance(batch, dict):
            batch = [
                torch.cat(parts) for parts in zip(*(b for b in batch.values() if b), strict=True)
            ]
        x, y = batch
        self.center = 0.9 * self.center + 0.1 * x.mean(0)
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y.squeeze(1))
        self.accuracy.update(logits.detach(), y.squeeze(1))
        self.log_dict(self.accuracy, on_step=False, on_epoch=True)
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        if batch_idx == 0:
            self.log("first", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net[1].eval()
            self.net[0].bias.requires_grad_(False)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self(x), y.squeeze(1)))

    def configure_optimizers(self) -> Any:
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        extra = {"momentum": 0.9} if self.optimizer == "sgd" else {}
        optimizer = kinds[self.optimizer](self.parameters(), lr=0.05, **extra)
        if self.schedule == "none":
            return optimizer
        schedulers = torch.optim.lr_scheduler
        scheduler, monitor = {
            "step": lambda: (schedulers.StepLR(optimizer, 3, 0.5), None),
            "onecycle": lambda: (schedulers.OneCycleLR(optimizer, 0.1, total_steps=40), None),
            "plateau": lambda: (schedulers.ReduceLROnPlateau(optimizer, patience=0), "val_loss"),
            "plateau-step": lambda: (schedulers.ReduceLROnPlateau(optimizer), "loss_step"),
        }[self.schedule]()
        interval = "epoch" if self.schedule == "plateau" else "step"
        chosen = {"scheduler": scheduler, "interval": interval, "monitor": monitor}
        return {"optimizer": optimizer, "lr_scheduler": chosen}


def loader(**kwargs: Any) -> DataLoader:
    return DataLoader(Noisy(), SIZE, shuffle=True, **kwargs)


def with_validation(train_loader: Any, **kwargs: Any) -> Any:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return train_loader

        def val_dataloader(self) -> Any:
            return DataLoader(Noisy(), SIZE, shuffle=True, **kwargs)

    return Data()


WORKERS = {"num_workers": 2, "multiprocessing_context": "fork"}
ALIVE = {**WORKERS, "persistent_workers": True}
MAKE = {
    "plain": lambda: (Model(), loader()),
    "sgd": lambda: (Model(optimizer="sgd"), loader()),
    "generator": lambda: (Model(), loader(generator=torch.Generator().manual_seed(3))),
    "workers": lambda: (Model(), loader(**WORKERS)),
    "persistent": lambda: (Model(), with_validation(loader(**ALIVE), **ALIVE)),
    "stream": lambda: (Model(), DataLoader(Stream(), SIZE)),
    "sized-stream": lambda: (Model(), with_validation(DataLoader(SizedStream(), SIZE))),
    "plain-stream": lambda: (Model(), DataLoader(Plain(), SIZE)),
    "worker-stream": lambda: (Model(), DataLoader(NoisyPlain(), SIZE, **WORKERS)),
    "persistent-stream": lambda: (Model(), DataLoader(NoisyPlain(), SIZE, **ALIVE)),
    "validation": lambda: (Model(), with_validation(loader())),
    "step": lambda: (Model("step"), loader()),
    "onecycle": lambda: (Model("onecycle"), loader()),
    "plateau": lambda: (Model("plateau"), with_validation(loader())),
    "plateau-step": lambda: (Model("plateau-step"), loader()),
}  # fmt: skip


def several(mode: str) -> Any:
    short = DataLoader(Noisy(), 10, shuffle=True)
    return Model(), CombinedLoader({"a": loader(), "b": short}, mode)


def several_streams() -> Any:
    short = DataLoader(Noisy(), 10, shuffle=True)
    return Model(), {"a": DataLoader(Stream(), SIZE), "b": short}


for mode in ("min_size", "max_size_cycle", "max_size"):
    MAKE[f"several-{mode}"] = lambda mode=mode: several(mode)
MAKE["several-streams"] = several_streams


def best_two() -> ModelCheckpoint:
    return ModelCheckpoint(monitor="loss_step", save_top_k=2, every_n_train_steps=1, save_last=True)


FIT: dict[str, dict[str, Any]] = {
    "default": {},
    "accumulate-4": {"accumulate_grad_batches": 4},
    "accumulate-2": {"accumulate_grad_batches": 2},
    "bf16": {"precision": "bf16-mixed"},
    "fp16": {"precision": "16-mixed"},
    "clip": {"gradient_clip_val": 0.1},
    "limited": {"limit_train_batches": 3, "max_epochs": 4},
    "often": {"val_check_interval": 2, "num_sanity_val_steps": 2},
    "steps": {"max_epochs": -1, "max_steps": 8},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "uneven": {"accumulate_grad_batches": 4, "val_check_interval": 2},
    "fp16-accumulate": {"precision": "16-mixed", "accumulate_grad_batches": 2},
    "longer-limit": {"limit_train_batches": 8},
    "ema": {"callbacks": lambda: [EMAWeightAveraging(decay=0.8)]},
    "stopping": {"max_epochs": 6, "callbacks": lambda: [EarlyStopping("val_loss", patience=1)]},
    "top": {"callbacks": lambda: [best_two()]},
}  # fmt: skip
