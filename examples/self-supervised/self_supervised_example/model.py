import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from self_supervised_example.augment import augment


class SimCLR(LightningModule):
    """SimCLR: learns to match two augmented views of an image, among all others."""

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
        """Normalized projections of views (N, 64); in training, of all processes."""
        noisy = augment(images, turn=0.4, shift=0.3) + 0.1 * torch.randn_like(images)
        points = normalize(self.head(self(noisy)), dim=1)
        if not self.training:  # processes may have batches of different sizes
            return points
        return self.all_gather(points, sync_grads=True).flatten(0, -2)

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """Each view should be nearest to the other one of the same image (NT-Xent)."""
        points = torch.cat([first, second])
        likeness = points @ points.T / self.hparams.temperature
        likeness.fill_diagonal_(-torch.inf)
        partner = torch.arange(len(points), device=self.device).roll(len(first))
        return cross_entropy(likeness, partner)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
