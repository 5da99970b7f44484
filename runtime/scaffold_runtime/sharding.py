"""Each process its own part of the data: shuffled and even for training, every sample once for evaluation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.seed import isolate_rng, seed_all


class Shares:
    """The part of the data that one process gets.

    Args:
        rank: of the process.
        size: how many processes there are.
        seed: of the order in which training samples are shuffled; the same on all of them.
    """

    def __init__(self, rank: int, size: int, seed: int) -> None:
        self.rank, self.size, self.seed = rank, size, seed

    def of_training(self, source: Any, sequential: bool = False) -> Any:
        """A loader, or a combined one, that gives this process its samples.

        Every process gets equally many; where they do not divide, some come twice.
        """
        if isinstance(source, CombinedLoader):
            return _combined(source, lambda part: self.of_training(part, sequential))
        if not _divisible(source):
            return source
        batches, batched = source.batch_sampler, type(source.batch_sampler) is BatchSampler
        if batches is not None and not batched:
            return _with(source, batch_sampler=self._nth(batches, even=True))
        if isinstance(source.sampler, (RandomSampler, SequentialSampler)):
            shuffle = isinstance(source.sampler, RandomSampler) and not sequential
            sampler: Any = DistributedSampler(
                source.dataset, self.size, self.rank, shuffle=shuffle, seed=self.seed
            )
        else:
            sampler = self._nth(source.sampler, even=True)
        return _resampled(source, sampler)

    def of_evaluation(self, loader: Any) -> Any:
        """A loader that gives this process every `size`-th batch: the batches one process would see."""
        if not _divisible(loader):
            return loader
        if isinstance(loader.sampler, RandomSampler):
            loader = _resampled(loader, SequentialSampler(loader.dataset))
        if loader.batch_sampler is None:
            return _with(loader, sampler=self._nth(loader.sampler, even=False))
        return _with(loader, batch_sampler=self._nth(loader.batch_sampler, even=False))

    def _nth(self, items: Any, even: bool) -> EveryNth:
        return EveryNth(items, self.rank, self.size, even, self.seed)


class EveryNth:
    """Every n-th item of a sampler, which draws the same items in each process."""

    def __init__(self, items: Any, first: int, step: int, even: bool, seed: int) -> None:
        self.items, self.first, self.step, self.even = items, first, step, even
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        for owner in (self.items, getattr(self.items, "sampler", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        if not hasattr(self.items, "__len__"):  # it may have no end, so it cannot be drawn at once
            return islice(self.items, self.first, None, self.step)
        with isolate_rng():
            seed_all(self.seed + self.epoch)
            items = list(self.items)
        whole = len(items) // self.step * self.step if self.even else len(items)
        return iter(items[self.first : whole : self.step])

    def __len__(self) -> int:
        extra = 0 if self.even else self.step - 1 - self.first
        return (len(self.items) + extra) // self.step


def _divisible(loader: Any) -> bool:
    """Whether it is a loader over numbered samples whose sampler does not divide them already."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return not any(isinstance(sampler, DistributedSampler) for sampler in samplers)


def _resampled(loader: DataLoader[Any], sampler: Any) -> Any:
    if loader.batch_sampler is None:
        return _with(loader, sampler=sampler)
    batches = BatchSampler(sampler, loader.batch_size or 1, loader.drop_last)
    return _with(loader, sampler=sampler, batch_sampler=batches)


def _with(loader: DataLoader[Any], **replaced: Any) -> Any:
    """A copy with other samplers. DataLoader refuses changes, but a copy is ours."""
    clone = copy.copy(loader)
    clone.__dict__.update(replaced, _iterator=None)
    return clone


def _combined(source: CombinedLoader, change: Any) -> CombinedLoader:
    return CombinedLoader(tree_map(change, source.iterables), source.mode)
