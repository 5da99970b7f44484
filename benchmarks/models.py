"""Models and data of the benchmarks: small, synthetic, the same for every framework."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLASSES = 10
clock = time.perf_counter


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
    return nn.Sequential(
        nn.Embedding(256, 128), *blocks, nn.Flatten(), nn.Linear(64 * 128, CLASSES)
    )


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are fetched one by one, as from most data sets."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.inputs)


class Ready(Samples):
    """Fetches a batch as a slice, without collating samples."""

    def __init__(self, *tensors: Tensor) -> None:
        pins = torch.cuda.is_available()
        super().__init__(*(tensor.pin_memory() if pins else tensor for tensor in tensors))

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = slice(indices[0], indices[-1] + 1)
        return self.inputs[rows], self.labels[rows]


class Watch:
    """A loader of `steps` batches in a fixed order, from few samples, that measures time.

    Time is measured from the draw of batch `skip` to that of the last batch, without set-up and warm-up.
    """

    def __init__(
        self,
        inputs: Tensor,
        batch: int,
        steps: int,
        skip: int = 20,
        kind: Callable[[Tensor, Tensor], Dataset[Any]] = Samples,
        **options: Any,
    ) -> None:
        index = torch.arange(batch * steps) % len(inputs)
        self.indices: list[list[int]] = index.view(steps, batch).tolist()
        self.skip, self.times = skip, [0.0, 0.0]
        self.settle: Callable[[], None] = lambda: None  # synchronizes the device, if asynchronous
        labels = torch.arange(len(inputs)) % CLASSES
        self.loader: DataLoader[Any] = DataLoader(
            kind(inputs, labels), batch_sampler=self, **options
        )

    def __iter__(self) -> Iterator[list[int]]:
        last = len(self.indices) - 1
        for number, batch in enumerate(self.indices):
            if number in (self.skip, last):
                self.settle()
            if number == self.skip:
                self.times[0] = clock()
            elif number == last:
                self.times[1] = clock()
            yield batch

    def __len__(self) -> int:
        return len(self.indices)

    def seconds_per_step(self) -> float:
        began, ended = self.times
        return (ended - began) / (len(self) - 1 - self.skip)


def vectors(steps: int, **options: Any) -> Watch:
    torch.manual_seed(0)
    return Watch(torch.randn(2048, 64), 32, steps, **options)


def tensors(steps: int) -> Watch:
    return vectors(steps, kind=TensorDataset)


def images(steps: int) -> Watch:
    torch.manual_seed(0)
    return Watch(torch.randn(256, 3, 32, 32), 32, steps)


def heavy(steps: int) -> Watch:
    """Batches of 25 MB in pinned memory: copying one to a GPU takes about as long as training on it."""
    torch.manual_seed(0)
    return Watch(torch.randn(8192, 3, 32, 32), 2048, steps, kind=Ready, collate_fn=list)


def text(steps: int) -> Watch:
    torch.manual_seed(0)
    return Watch(torch.randint(0, 256, (256, 64)), 16, steps)
