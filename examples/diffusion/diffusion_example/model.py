"""A diffusion model: predicts the noise in images, and removes it step by step."""

import math

import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss


class Block(nn.Module):
    """A residual block of two convolutions; the diffusion time shifts its features."""

    def __init__(self, channels: int, width: int, times: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.time, self.norm = nn.Linear(times, width), nn.GroupNorm(4, width)
        self.straight = nn.Conv2d(channels, width, 1)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        hidden = self.norm(self.first(images)) + self.time(time)[:, :, None, None]
        return self.straight(images) + self.second(nn.functional.silu(hidden))


class Denoiser(nn.Module):
    """A small U-Net: the noise in images (N, C, H, W) at times (N,) from 0 to 1."""

    waves: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(-1, 5), False)
        times = 2 * 6
        self.top = Block(channels, width, times)
        self.middle = Block(width, 2 * width, times)
        self.bottom = Block(2 * width, 2 * width, times)
        self.up = Block(3 * width, width, times)
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        angles = times[:, None] * self.waves
        time = torch.cat([angles.sin(), angles.cos()], dim=1)
        top = self.top(images, time)
        low = self.bottom(self.middle(interpolate(top, scale_factor=0.5), time), time)
        joined = torch.cat([interpolate(low, scale_factor=2.0), top], dim=1)
        return self.out(self.up(joined, time))


class Diffusion(LightningModule):
    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        width: int = 32,
        steps: int = 50,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = Denoiser(channels, width)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        return self.backbone(images, times)

    def signal(self, times: Tensor) -> Tensor:
        """The share of the image in the variance (N, 1, 1, 1): alpha-bar of DDPM."""
        return (0.01 + 0.98 * torch.cos(times * math.pi / 2) ** 2)[:, None, None, None]

    def step(self, images: Tensor) -> Tensor:
        images, times = 2 * images - 1, torch.rand(len(images), device=self.device)
        noise, signal = torch.randn_like(images), self.signal(times)
        noisy = signal.sqrt() * images + (1 - signal).sqrt() * noise
        return mse_loss(self(noisy, times), noise)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Turn noise into images (count, C, H, W), 0 to 1, in `steps` steps of DDIM."""
        h = self.hparams
        images = torch.randn(count, h.channels, h.size, h.size, device=self.device)
        times = torch.linspace(1, 0, h.steps + 1, device=self.device)
        for now, then in zip(times[:-1], times[1:], strict=True):
            noise = self(images, now.expand(count))
            before, after = self.signal(now[None]), self.signal(then[None])
            clean = (images - (1 - before).sqrt() * noise) / before.sqrt()
            images = after.sqrt() * clean.clamp(-1, 1) + (1 - after).sqrt() * noise
        return (clean.clamp(-1, 1) + 1) / 2

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.step(batch[0])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.step(batch[0]), prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.step(batch[0]))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.sample(len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
