"""A GAN: a generator makes images from noise, a critic scores how real they look."""

import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import softplus


def generator(channels: int, size: int, noise: int, width: int) -> nn.Sequential:
    """Noise (N, noise) to images (N, channels, size, size) from 0 to 1."""
    small = size // 4
    return nn.Sequential(
        nn.Linear(noise, 2 * width * small**2),
        nn.Unflatten(1, (-1, small, small)),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, channels, 3, padding=1),
        nn.Sigmoid(),
    )


def critic(channels: int, size: int, width: int) -> nn.Sequential:
    """Images to logits (N, 1): high for images that look real."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(2 * width * (size // 4) ** 2, 1),
    )


class GAN(LightningModule):
    automatic_optimization = False

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        noise: int = 32,
        width: int = 32,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.generator = generator(channels, size, noise, width)
        self.critic = critic(channels, size, width)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def noise(self, count: int) -> Tensor:
        return torch.randn(count, self.hparams.noise, device=self.device)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        return self(self.noise(count))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real, (for_generator, for_critic) = batch[0], self.optimizers()
        fake = self(self.noise(len(real)))

        with self.toggled_optimizer(for_critic):
            loss = self.critic_loss(real, fake.detach())
            for_critic.zero_grad()
            self.manual_backward(loss)
            for_critic.step()
        self.log("critic_loss", loss)

        with self.toggled_optimizer(for_generator):
            loss = softplus(-self.critic(fake)).mean()
            for_generator.zero_grad()
            self.manual_backward(loss)
            for_generator.step()
        self.log("generator_loss", loss)

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (softplus(-self.critic(real)) + softplus(self.critic(fake))).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        fake = self.sample(len(batch[0]))
        self.log("val_critic_loss", self.critic_loss(batch[0], fake))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        fake = self.sample(len(batch[0]))
        self.log("test_critic_loss", self.critic_loss(batch[0], fake))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.sample(len(batch[0]))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts, lr = (self.generator, self.critic), self.hparams.lr
        return [torch.optim.Adam(part.parameters(), lr, (0.5, 0.99)) for part in parts]
