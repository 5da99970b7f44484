"""Sharding data over ranks: shuffled and of equal size for training, every sample once for evaluation."""

from __future__ import annotations

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

from scaffold_runtime.batches import replacing
from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.ranks import rank_zero_warn
from scaffold_runtime.seed import isolate_rng, seed_all


class Shares:
    """Shards loaders for one rank.

    Args:
        rank: rank of this process.
        size: number of processes.
        seed: the seed for shuffling training samples; the same on all ranks.
    """

    def __init__(self, rank: int, size: int, seed: int) -> None:
        self.rank, self.size, self.seed = rank, size, seed

    def of_training(self, source: Any) -> Any:
        """A loader, or a combined one, that gives this rank its samples.

        All ranks get the same number: a DistributedSampler repeats some samples for that, `EveryNth` drops some.
        """
        if isinstance(source, CombinedLoader):
            return CombinedLoader(tree_map(self.of_training, source.iterables), source.mode)
        if not _divisible(source):
            return source
        batches = source.batch_sampler
        if type(batches) not in (BatchSampler, type(None)):
            return replacing(source, batch_sampler=self._nth(batches, even=True))
        sampler = _sampler(source)
        if isinstance(sampler, (RandomSampler, SequentialSampler)):
            shuffle = isinstance(sampler, RandomSampler)
            sampler = DistributedSampler(
                source.dataset, self.size, self.rank, shuffle=shuffle, seed=self.seed
            )
        else:
            sampler = self._nth(sampler, even=True)
        return _resampled(source, sampler)

    def of_evaluation(self, loader: Any) -> Any:
        """A loader that gives this rank every `size`-th batch of those that a single process would see."""
        if not _divisible(loader):
            return loader
        if isinstance(loader.sampler, RandomSampler):
            loader = _resampled(loader, SequentialSampler(loader.dataset))
        if loader.batch_sampler is None:
            return replacing(loader, sampler=self._nth(loader.sampler, even=False))
        return replacing(loader, batch_sampler=self._nth(loader.batch_sampler, even=False))

    def _nth(self, items: Any, even: bool) -> EveryNth:
        return EveryNth(items, self.rank, self.size, even, self.seed)


class EveryNth:
    """Every n-th item of a sampler, which draws the same items on each rank."""

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
        if not hasattr(self.items, "__len__"):  # it may be endless, so do not draw all at once
            return islice(self.items, self.first, None, self.step)
        with isolate_rng():
            seed_all(self.seed + self.epoch)
            items = list(self.items)
        whole = len(items) // self.step * self.step if self.even else len(items)
        return iter(items[self.first : whole : self.step])

    def __len__(self) -> int:
        extra = 0 if self.even else self.step - 1 - self.first
        return (len(self.items) + extra) // self.step


def unshuffled(source: Any, stage: str) -> Any:
    """A loader, or a combined one, without shuffling, so that its first batches are the same each time."""
    if isinstance(source, CombinedLoader):
        parts = tree_map(lambda part: unshuffled(part, stage), source.iterables)
        return CombinedLoader(parts, source.mode)
    if not numbered(source) or isinstance(_sampler(source), SequentialSampler):
        return source
    rank_zero_warn(f"overfit_batches: the {stage} data is not shuffled, to be the same each time.")
    return _resampled(source, SequentialSampler(source.dataset))


def whole(loader: Any) -> Any:
    """A loader without `drop_last`, since each sample needs a prediction."""
    batches = getattr(loader, "batch_sampler", None)
    if not numbered(loader) or type(batches) is not BatchSampler or not batches.drop_last:
        return loader
    return replacing(loader, batch_sampler=BatchSampler(batches.sampler, batches.batch_size, False))


def numbered(loader: Any) -> bool:
    """Whether this is a DataLoader over samples that have indices."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


def _sampler(loader: DataLoader[Any]) -> Any:
    """The sampler of single samples: that of the batch sampler, if it has one."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _divisible(loader: Any) -> bool:
    """Whether this is a DataLoader over samples with indices that its sampler does not shard already."""
    return numbered(loader) and not isinstance(_sampler(loader), DistributedSampler)


def _resampled(loader: DataLoader[Any], sampler: Any) -> Any:
    old = loader.batch_sampler
    if old is None:
        return replacing(loader, sampler=sampler)
    size, drop_last = getattr(old, "batch_size", 1), getattr(old, "drop_last", False)
    batches = BatchSampler(sampler, size, drop_last)
    return replacing(loader, sampler=sampler, batch_sampler=batches)
