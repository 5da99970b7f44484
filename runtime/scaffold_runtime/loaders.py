"""Where batches come from: finding the loaders, limiting them, and standing at an exact position in them.

A position is a number of batches delivered in an epoch. To stand there again, the generators are put
back to the start of that epoch, the loader's sampler is asked for the same indices and the first ones
are skipped without loading data. Samples loaded in worker processes are seeded by (seed, epoch, index),
so their augmentation does not depend on what a worker loaded before.
"""

from __future__ import annotations

import copy
import math
import random
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.seed import rng_state, set_rng_state

Limit = int | float
_NOTHING = object()


def loader_length(loader: Any) -> float:
    """How many batches a loader has; infinity where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


def limited(length: float, limit: Limit, argument: str) -> float:
    """Apply a `limit_*_batches` argument: an int is a count, a float a fraction.

    Raises:
        MisconfigurationException: if a fraction is asked of a loader without length, or leaves nothing.
    """
    if isinstance(limit, int):
        return min(length, limit)
    if limit == 1.0:
        return length
    if limit == 0.0:
        return 0
    if length == math.inf:
        raise MisconfigurationException(
            f"{argument}={limit} is a fraction, but the loader has no length. Give a number of batches instead."
        )
    count = int(length * limit)
    if count == 0 and length > 0:
        raise MisconfigurationException(
            f"{argument}={limit} of {int(length)} batches leaves none. Use at least {1 / length:.3g}, "
            "or an integer number of batches."
        )
    return count


def as_train_loader(source: Any) -> Any:
    """Several training loaders become one that gives a batch of each."""
    if isinstance(source, (Mapping, list, tuple)):
        return CombinedLoader(source, "max_size_cycle")
    return source


def as_eval_loaders(source: Any) -> list[Any]:
    """Evaluation runs over one loader after another."""
    if isinstance(source, CombinedLoader) and source.mode == "sequential":
        return list(source.flattened)
    if isinstance(source, Mapping):
        return list(source.values())
    return list(source) if isinstance(source, (list, tuple)) else [source]


class TrainSource:
    """The training batches of a run, and the position in them."""

    def __init__(self, loader: Any, limit: Limit, sequential: bool = False) -> None:
        self.loader = loader
        parts = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
        self._positioned = [_Positioned(part, sequential) for part in parts]
        self._combined = isinstance(loader, CombinedLoader)
        self._iterable = (
            loader.over([part.iterable for part in self._positioned])
            if self._combined
            else self._positioned[0].iterable
        )
        self.length = limited(loader_length(loader), limit, "limit_train_batches")
        self._start: dict[str, Any] = {}
        self._resume: dict[str, Any] | None = None

    def begin(self, epoch: int, skip: int) -> Iterator[tuple[Any, bool]]:
        """Yield (batch, whether it is the last) of this epoch, from batch number `skip` on."""
        for part in self._positioned:
            part.set_epoch(epoch)
        resume, self._resume = self._resume, None
        if resume is not None and skip:
            self._put_back(resume)
        self._start = {"rng": rng_state(), "generators": self._generators()}
        stateful = resume is not None and skip > 0 and self._load_states(resume)
        seed = torch.initial_seed() + 0x9E3779B97F4A7C15 * (epoch + 1)
        by_index = not self._combined and self._positioned[0].cursor is not None
        for part in self._positioned:
            if part.cursor is not None:
                part.cursor.seed = seed
                part.cursor.skip = skip if by_index else 0
        batches = iter(self._iterable)
        if skip and not by_index and not stateful:
            self._warn_replay(skip)
            next(islice(batches, skip - 1, skip), None)
        if self.length == math.inf:
            return _with_lookahead(batches)
        return _counted(batches, skip, int(self.length))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to stand here again."""
        states = [part.state_dict() for part in self._positioned]
        return {**self._start, "loaders": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resume = state

    def _generators(self) -> list[Any]:
        return [[g.get_state() for g in part.generators()] for part in self._positioned]

    def _put_back(self, state: dict[str, Any]) -> None:
        if "rng" not in state:
            return
        set_rng_state(state["rng"])
        for part, states in zip(self._positioned, state["generators"], strict=False):
            for generator, kept in zip(part.generators(), states, strict=False):
                generator.set_state(kept)

    def _load_states(self, state: dict[str, Any]) -> bool:
        kept = state.get("loaders", [])
        if len(kept) != len(self._positioned) or not any(kept):
            return False
        return all(part.load_state_dict(s) for part, s in zip(self._positioned, kept, strict=True))

    def _warn_replay(self, skip: int) -> None:
        part = self._positioned[0]
        if part.replays_exactly:
            return
        warnings.warn(
            f"{type(self.loader).__name__} cannot be positioned: the first {skip} batches of the epoch are "
            "loaded again and dropped, and they repeat exactly only if the loader yields the same batches "
            "each time. Give it `state_dict` and `load_state_dict` to resume at once and exactly.",
            stacklevel=2,
        )


def _counted(batches: Iterator[Any], start: int, stop: int) -> Iterator[tuple[Any, bool]]:
    last = stop - 1
    for index, batch in enumerate(islice(batches, max(stop - start, 0)), start):
        yield batch, index == last


def _with_lookahead(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Without a length, only the next batch tells whether this one is the last."""
    held: Any = _NOTHING
    for batch in batches:
        if held is not _NOTHING:
            yield held, False
        held = batch
    if held is not _NOTHING:
        yield held, True


class _Positioned:
    """One loader, made positionable where that is possible without loading data."""

    def __init__(self, loader: Any, sequential: bool) -> None:
        self.loader = loader
        self.iterable = loader
        self.cursor: Cursor | None = None
        plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
        self.replays_exactly = plain
        if plain and not isinstance(loader.dataset, IterableDataset):
            self.iterable, self.cursor = _with_cursor(loader, sequential)

    def set_epoch(self, epoch: int) -> None:
        for owner in self._samplers():
            if callable(getattr(owner, "set_epoch", None)):
                owner.set_epoch(epoch)

    def _samplers(self) -> Iterator[Any]:
        batch_sampler = getattr(self.loader, "batch_sampler", None)
        yield from (self.loader, getattr(self.loader, "dataset", None))
        yield from (getattr(self.loader, "sampler", None), batch_sampler)
        yield getattr(batch_sampler, "sampler", None)

    def generators(self) -> list[torch.Generator]:
        found: dict[int, torch.Generator] = {}
        for owner in self._samplers():
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
        return list(found.values())

    def _stateful(self) -> Any:
        if _has_state(self.loader):
            return self.loader
        dataset = getattr(self.loader, "dataset", None)
        in_process = getattr(self.loader, "num_workers", 0) == 0
        return dataset if self.cursor is None and in_process and _has_state(dataset) else None

    def state_dict(self) -> dict[str, Any]:
        owner = self._stateful()
        return owner.state_dict() if owner is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        owner = self._stateful()
        if owner is not None and state:
            owner.load_state_dict(state)
        return owner is not None and bool(state)


def _has_state(thing: Any) -> bool:
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


class Cursor:
    """A sampler that can leave out its first batches, and marks indices with a seed for workers."""

    def __init__(self, sampler: Any, batched: bool, marked: bool) -> None:
        self.sampler, self.batched, self.marked = sampler, batched, marked
        self.skip = 0
        self.seed = 0

    def __iter__(self) -> Iterator[Any]:
        remaining = islice(iter(self.sampler), self.skip, None)
        if not self.marked:
            return remaining
        seed = self.seed
        if self.batched:
            return ([(seed, index) for index in batch] for batch in remaining)
        return ((seed, index) for index in remaining)

    def __len__(self) -> int:
        return len(self.sampler)


def _with_cursor(loader: DataLoader[Any], sequential: bool) -> tuple[DataLoader[Any], Cursor]:
    """A copy of `loader` that draws its indices through a cursor; the user's own is left alone."""
    batched = loader.batch_sampler is not None
    sampler: Any = loader.batch_sampler if batched else loader.sampler
    if sequential:
        ordered = SequentialSampler(loader.dataset)  # type: ignore[arg-type] # map-style, hence sized
        sampler = (
            BatchSampler(ordered, loader.batch_size or 1, loader.drop_last) if batched else ordered
        )
    cursor = Cursor(sampler, batched, marked=loader.num_workers > 0)
    clone = copy.copy(loader)
    # DataLoader refuses to have its sampler replaced; a copy is ours to change.
    clone.__dict__["batch_sampler" if batched else "sampler"] = cursor
    if loader.num_workers > 0:
        batch_fetch = callable(getattr(loader.dataset, "__getitems__", None))
        clone.__dict__["dataset"] = (SeededBatches if batch_fetch else Seeded)(loader.dataset)
    return clone, cursor


class Seeded(Dataset[Any]):
    """A dataset whose samples are loaded under a seed of their own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, marked: tuple[int, Any]) -> Any:
        seed, index = marked
        seed_sample(seed, index)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededBatches(Seeded):
    """The same for a dataset that loads a whole batch at once."""

    def __getitems__(self, marked: Sequence[tuple[int, Any]]) -> Any:
        seed_sample(*marked[0])
        return self.dataset.__getitems__([index for _, index in marked])


def seed_sample(seed: int, index: Any) -> None:
    """Seed Python, NumPy and torch from (seed, index), the same in every process."""
    number = index if isinstance(index, int) else zlib.crc32(repr(index).encode())
    mixed = (seed * 0x5851F42D4C957F2D + number * 0x14057B7EF767814F + 0xB5) & (2**64 - 1)
    mixed ^= mixed >> 33
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(mixed & (2**63 - 1))


def eval_batches(loader: Any, limit: Limit, argument: str) -> tuple[Iterable[Any], float]:
    """The batches of an evaluation loader, limited, and how many they are."""
    length = limited(loader_length(loader), limit, argument)
    return (loader if length == math.inf else islice(loader, int(length))), length
