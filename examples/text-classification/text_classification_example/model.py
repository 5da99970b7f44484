import torch
from scaffold_runtime import LightningModule
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from text_classification_example.metrics import f1_counts, macro_f1


class TextClassifier(LightningModule):
    """A convolutional network over bytes, with max pooling over the text."""

    def __init__(self, classes: int = 8, width: int = 128, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(257, 32, padding_idx=0)
        sizes = (3, 5, 7)
        self.patterns = nn.ModuleList(
            nn.Conv1d(32, width, size, padding=size // 2) for size in sizes
        )
        self.head = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(len(sizes) * width, classes)
        )
        self.counts = torch.zeros(3, classes)

    def setup(self, stage: str) -> None:
        found = getattr(self.trainer.datamodule, "classes", 0)
        if found > self.hparams.classes:
            raise MisconfigurationException(
                f"the data have {found} classes, and the model has "
                f"{self.hparams.classes}: set model.classes to {found}."
            )

    def forward(self, texts: Tensor) -> Tensor:
        """Logits (batch, classes) of bytes (batch, time); padding (0) is masked."""
        padding = (texts == 0)[:, None]
        embedded = self.embedding(texts).transpose(1, 2)
        features = [pattern(embedded).relu() for pattern in self.patterns]
        pooled = [each.masked_fill(padding, 0).amax(dim=2) for each in features]
        return self.head(torch.cat(pooled, dim=1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.counts = torch.zeros(3, self.hparams.classes, device=self.device)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.step(batch, "test")

    def step(self, batch: list[Tensor], stage: str) -> None:
        logits = self(batch[0])
        self.counts += f1_counts(logits.argmax(dim=1), batch[1], self.hparams.classes)
        self.log(f"{stage}_loss", cross_entropy(logits, batch[1]), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val_f1", macro_f1(self.all_gather(self.counts)), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self.log("test_f1", macro_f1(self.all_gather(self.counts)))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
