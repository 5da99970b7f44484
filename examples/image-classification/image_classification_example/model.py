from scaffold_runtime import LightningModule
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import ExponentialLR

from image_classification_example.augment import augment


class ImageClassifier(LightningModule):
    def __init__(
        self, classes: int = 10, channels: int = 1, width: int = 32, lr: float = 3e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        first = nn.Conv2d(channels, width, 3, padding=1)
        second = nn.Conv2d(width, 2 * width, 3, padding=1)
        layers = [first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU()]
        pooling = [nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Dropout(0.1)]
        self.backbone = nn.Sequential(*layers, *pooling)
        self.head = nn.Linear(32 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step([augment(batch[0]), batch[1]], "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).softmax(dim=1)

    def step(self, batch: list[Tensor], stage: str) -> dict[str, Tensor]:
        logits, labels = self(batch[0]), batch[1]
        loss, predicted = nn.functional.cross_entropy(logits, labels), logits.argmax(1)
        accuracy = (predicted == labels).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": accuracy}, prog_bar=True)
        return {"loss": loss, "predicted": predicted}

    def configure_optimizers(self) -> tuple[list[optim.AdamW], list[ExponentialLR]]:
        optimizer = optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return [optimizer], [ExponentialLR(optimizer, gamma=0.9)]
