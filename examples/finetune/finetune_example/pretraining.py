"""Pretraining of the backbone: it learns to classify the digits 0 to 4."""

import os
from pathlib import Path

import torch
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from finetune_example.augment import augment
from finetune_example.backbones import FEATURES, digits_backbone


class Pretraining(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = digits_backbone(), nn.Linear(FEATURES, 5)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = augment(batch[0]), batch[1]
        return cross_entropy(self.head(self.backbone(images)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def pretrain(data: Dataset, file: str) -> None:
    """Pretrain a backbone on digits, unless the file exists."""
    path = Path(file)
    if path.exists():
        return
    with isolate_rng():  # later random numbers must not depend on whether this ran
        torch.manual_seed(0)
        model = Pretraining()
        trainer = Trainer(max_epochs=15, accelerator="cpu", barebones=True)
        trainer.fit(model, DataLoader(data, 64, shuffle=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    torch.save(model.backbone.state_dict(), partial)
    partial.replace(path)  # written atomically
