import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from self_supervised_example.augment import augment


class SimCLR(LightningModule):
    """Contrastive learning: match two views of an image, among all other images."""

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        temperature: float = 0.2,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, 128),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(128, 64))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 128); the projection head is for training only."""
        return self.backbone(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "test")

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def step(self, batch: list[Tensor], stage: str) -> Tensor:
        loss = self.contrast(self.view(batch[0]), self.view(batch[0]))
        self.log(f"{stage}_loss", loss, prog_bar=True)
        return loss

    def view(self, images: Tensor) -> Tensor:
        """Normalized projections (N, 64) of a view; in training, of all processes."""
        noisy = augment(images, turn=0.4, shift=0.3) + 0.1 * torch.randn_like(images)
        projected = normalize(self.head(self(noisy)), dim=1)
        if not self.training:  # processes may have batches of different sizes
            return projected
        return self.all_gather(projected, sync_grads=True).flatten(0, -2)

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """NT-Xent loss: each view should be nearest to the other view of its image."""
        views = torch.cat([first, second])
        similarity = views @ views.T / self.hparams.temperature
        similarity.fill_diagonal_(-torch.inf)
        partner = torch.arange(len(views), device=self.device).roll(len(first))
        return cross_entropy(similarity, partner)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
