"""The models and data that the benchmarks train: small, synthetic, the same for every framework."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 10


class Attention(nn.Module):
    """One block of a small GPT: causal self-attention and a feed-forward layer, both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.norms[1](x))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 64, CLASSES)),
    )


def gpt() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Attention(128, 4) for _ in range(2)]
    return nn.Sequential(nn.Embedding(256, 128), *blocks, nn.Flatten(), nn.LazyLinear(CLASSES))


def loader(inputs: Tensor, batch: int, steps: int) -> DataLoader[Any]:
    """`steps` batches drawn from a few samples in a fixed order, so that runs of any length compare."""
    labels = torch.arange(len(inputs)) % CLASSES
    index = torch.arange(batch * steps) % len(inputs)
    return DataLoader(
        TensorDataset(inputs, labels), batch_sampler=index.view(steps, batch).tolist()
    )


def vectors(steps: int) -> DataLoader[Any]:
    torch.manual_seed(0)
    return loader(torch.randn(2048, 64), 32, steps)


def images(steps: int) -> DataLoader[Any]:
    torch.manual_seed(0)
    return loader(torch.randn(256, 3, 32, 32), 32, steps)


def text(steps: int) -> DataLoader[Any]:
    torch.manual_seed(0)
    return loader(torch.randint(0, 256, (256, 64)), 16, steps)


def warmed(network: nn.Module, batches: DataLoader[Any]) -> nn.Module:
    """Run one forward pass, which gives lazy layers their shape."""
    with torch.no_grad():
        network(next(iter(batches))[0])
    return network
