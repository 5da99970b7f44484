"""The classic tutorial: a classifier for MNIST. Code written for Lightning, with the import line changed.

Needs torchvision: `pip install torchvision`, then `python mnist.py`.
"""

import argparse

import torch
from scaffold_runtime import LightningDataModule, LightningModule, Trainer, seed_everything
from scaffold_runtime.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import transforms
from torchvision.datasets import MNIST


class MNISTClassifier(LightningModule):
    def __init__(self, hidden: int = 128, lr: float = 1e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(28 * 28, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 10)
        )
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", self.criterion(logits, y), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class MNISTDataModule(LightningDataModule):
    def __init__(self, data_dir: str = "data", batch_size: int = 64, val_share: float = 1 / 12):
        super().__init__()
        self.data_dir, self.batch_size, self.val_share = data_dir, batch_size, val_share
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def prepare_data(self):
        MNIST(self.data_dir, train=True, download=True)
        MNIST(self.data_dir, train=False, download=True)

    def setup(self, stage):
        if stage in ("fit", "validate"):
            full = MNIST(self.data_dir, train=True, transform=self.transform)
            split = torch.Generator().manual_seed(42)
            shares = [1 - self.val_share, self.val_share]
            self.train_set, self.val_set = random_split(full, shares, split)
        if stage == "test":
            self.test_set = MNIST(self.data_dir, train=False, transform=self.transform)

    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test_set, batch_size=self.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accelerator", default="gpu", help="gpu, cpu, or auto")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--resume", help="a checkpoint to go on from, for instance last.ckpt")
    options = parser.parse_args()

    seed_everything(42)
    checkpoint = ModelCheckpoint(dirpath="checkpoints", monitor="val_loss", save_last=True)
    trainer = Trainer(
        max_epochs=5,
        accelerator=options.accelerator,
        devices=1,
        precision=16,
        accumulate_grad_batches=4,
        gradient_clip_val=0.5,
        callbacks=[checkpoint, EarlyStopping(monitor="val_loss", patience=3)],
    )
    model, data = MNISTClassifier(), MNISTDataModule(options.data_dir)
    trainer.fit(model, datamodule=data, ckpt_path=options.resume)
    trainer.test(model, datamodule=data, ckpt_path="best")


if __name__ == "__main__":
    main()
