"""The runtime without the scaffolder: one file, no configuration. Run it with `python plain.py`."""

import torch
from scaffold_runtime import LightningModule, Trainer, seed_everything
from scaffold_runtime.callbacks import EarlyStopping, ModelCheckpoint
from scaffold_runtime.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(LightningModule):
    def __init__(self, width: int = 64, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        right = self(batch[0]).argmax(dim=1) == batch[1]
        self.log("val_acc", right.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def main() -> None:
    seed_everything(42)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(images, torch.tensor(digits.target))
    train, val = random_split(data, [0.8, 0.2])
    trainer = Trainer(
        max_epochs=20,
        accelerator="auto",
        logger=CSVLogger("runs", name=""),
        callbacks=[
            ModelCheckpoint(monitor="val_acc", mode="max"),
            EarlyStopping(monitor="val_acc", mode="max", patience=5),
        ],
    )
    trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(val, 256))
    trainer.validate(ckpt_path="best", dataloaders=DataLoader(val, 256))


if __name__ == "__main__":
    main()
