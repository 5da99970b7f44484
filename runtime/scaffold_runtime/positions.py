"""Resuming at an exact position in a loader, and seeding each sample that workers load.

A position is the number of batches delivered in a pass over the loader. To return to it, the random state is
restored to that before the sampler's first draw, the sampler draws the same indices, and the first ones are
skipped without loading data. Samples loaded in worker processes are seeded by (seed, pass, index), so their
augmentation does not depend on what a worker loaded before.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from scaffold_runtime.batches import draw_seed, made_here, make_batches, replacing
from scaffold_runtime.compare import digest
from scaffold_runtime.errors import warn
from scaffold_runtime.seed import rng_state, set_rng_state
from scaffold_runtime.workers import StaysOn, start

ODD = 0x9E3779B97F4A7C15  # spreads consecutive numbers over all 64 bits
BITS = 2**64 - 1


class Part:
    """One loader of a run: a copy that can be positioned, and the position in its current pass."""

    def __init__(self, loader: Any) -> None:
        self.loader = self.iterable = loader
        self.cursor: Cursor | None = None
        self.seed = self.passes = self.count = 0
        self.stride = ODD  # between the seeds of passes, in persistent workers
        self.ended = False  # whether the loader ended in this epoch
        self._start: dict[str, Any] | None = None
        self._kept: dict[str, Any] | None = None
        self._opened: Any = None
        self.plain = (
            isinstance(loader, DataLoader)
            and type(loader).__iter__ is DataLoader.__iter__
            and not _has_state(loader)
        )
        self.workers = getattr(loader, "num_workers", 0) if isinstance(loader, DataLoader) else 0
        self.persistent = self.plain and loader.persistent_workers
        if self.plain:
            self._clone()

    def _clone(self) -> None:
        """Work on a copy of the user's loader."""
        own = torch.Generator()  # for the base seed of workers, see `_draw_seed`
        self.iterable = clone = replacing(self.loader, generator=own)
        inside = clone.__dict__
        if self.workers:
            inside["worker_init_fn"] = StaysOn(clone.worker_init_fn)
        if isinstance(clone.dataset, IterableDataset):
            inside["dataset"] = SeededStream(clone.dataset) if self.persistent else clone.dataset
            return
        batched = clone.batch_sampler is not None
        sampler = clone.batch_sampler if batched else clone.sampler
        self.cursor = Cursor(sampler, batched, self.workers > 0, generators_of(self.loader))
        inside["batch_sampler" if batched else "sampler"] = self.cursor
        if self.workers:
            at_once = callable(getattr(clone.dataset, "__getitems__", None))
            inside["dataset"] = (SeededBatches if at_once else Seeded)(clone.dataset)

    # -- one pass -------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        self.count, self.ended, self._kept = 0, False, None
        tell_epoch(owners_of(self.loader), epoch)

    def __iter__(self) -> Iterator[Any]:
        """A pass that counts its batches, for a CombinedLoader, in which a loader may end before the epoch."""
        if self._kept is None:
            self.count = 0
        return self._counting(self.open(self.count))

    def _counting(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.count += 1
            yield batch
        self.ended = True

    def open(self, skip: int) -> Iterator[Any]:
        """Start a pass at batch `skip`, or continue the one whose state was loaded."""
        kept, self._kept = self._kept, None
        if kept is None and self.plain:
            self._draw_seed()
        if self.plain:
            self.iterable.generator.manual_seed(self.seed)
        if self.cursor is not None:
            return self._open_at(self.cursor, skip, kept)
        self._start = kept["start"] if kept else take_random(generators_of(self.loader))
        if kept is not None and self._load_inner(kept):
            return self._fresh()
        if kept is not None:
            put_random(kept["start"], generators_of(self.loader))
        if isinstance(getattr(self.iterable, "dataset", None), SeededStream):
            self.iterable.dataset.begin(self.seed, self.passes, self.stride)
        batches = self._fresh()
        if skip:
            self._replay(batches, skip)
        return batches

    def _fresh(self) -> Iterator[Any]:
        if self.cursor is not None and made_here(self.iterable):
            return make_batches(self.iterable, self.cursor)
        if not self.persistent:
            self.close()
        self._opened = start(self.iterable)
        return self._opened  # type: ignore[no-any-return] # whatever a loader gives

    def close(self) -> None:
        """Stop the workers now, after their current batch. The garbage collector would close their queues first, so
        they would not notice, and torch would wait five seconds for each.
        """
        if self.plain and hasattr(self._opened, "_shutdown_workers"):
            self._opened._shutdown_workers()
            self.iterable.__dict__["_iterator"] = None
        self._opened = None

    def _draw_seed(self) -> None:
        """Draw the base seed of workers, as torch would; persistent workers keep theirs."""
        if self.passes == 0 or not self.persistent:
            self.seed = int(draw_seed(self.loader))
        self.passes += 1

    def _open_at(self, cursor: Cursor, skip: int, kept: dict[str, Any] | None) -> Iterator[Any]:
        cursor.seed = (self.seed + ODD * self.passes) & BITS
        cursor.position(skip, kept["start"] if kept else None)
        batches = self._fresh()
        if skip and not self.workers:
            cursor.prime()
        if cursor.draws_late:
            inner = getattr(cursor.sampler, "sampler", cursor.sampler)
            warn(
                f"the sampler {type(inner).__name__} draws global random numbers as it goes, so the order of "
                "the rest of this epoch may differ: some samples may be repeated and others skipped. Give the "
                "sampler a generator of its own to resume exactly."
            )
        if kept is not None:
            self._load_inner(kept)
        return batches

    def _replay(self, batches: Iterator[Any], skip: int) -> None:
        drew = drop(batches, skip) and not self.workers
        if (self.plain and not drew) or isinstance(self.loader, (list, tuple)):
            return
        warn(
            f"{type(self.loader).__name__} cannot be positioned: the first {skip} batches of the epoch were "
            "loaded again and dropped. Unless it yields the same batches each time, some samples of this "
            "epoch are repeated and others skipped. Give it `state_dict` and `load_state_dict` to resume at once "
            "and exactly."
        )

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self, mid_epoch: bool) -> dict[str, Any]:
        owner = self._stateful()
        start = self.cursor.start if self.cursor is not None else self._start
        return {
            "seed": self.seed,
            "passes": self.passes,
            "ended": mid_epoch and self.ended,
            "count": self.count if mid_epoch else 0,
            "start": start if mid_epoch else None,
            "inner": owner.state_dict() if owner is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any], mid_epoch: bool) -> None:
        self.seed, self.passes = state["seed"], state["passes"]
        if mid_epoch and state["start"] is not None:
            self.ended, self.count, self._kept = state["ended"], state["count"], state
        elif not mid_epoch:
            self._load_inner(state)

    def _load_inner(self, state: dict[str, Any]) -> bool:
        owner = self._stateful()
        if owner is None or state["inner"] is None:
            return False
        owner.load_state_dict(state["inner"])
        return True

    def _stateful(self) -> Any:
        """The loader or data set that saves its own position; a data set in a worker cannot be asked."""
        if _has_state(self.loader):
            return self.loader
        dataset = getattr(self.loader, "dataset", None)
        return dataset if not self.workers and _has_state(dataset) else None


def owners_of(loader: Any) -> Iterator[Any]:
    """A loader, and its parts that may draw random numbers."""
    yield from (loader, getattr(loader, "dataset", None))
    yield from samplers_of(loader)


def samplers_of(loader: Any) -> Iterator[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    yield from (getattr(loader, "sampler", None), batch_sampler)
    yield getattr(batch_sampler, "sampler", None)


def tell_epoch(owners: Iterable[Any], epoch: int) -> None:
    """Call the `set_epoch` of those that have one, once each."""
    for owner in {id(owner): owner for owner in owners}.values():
        if callable(set_epoch := getattr(owner, "set_epoch", None)):
            set_epoch(epoch)


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators that a loader and its parts draw from, in addition to the global ones."""
    found = (getattr(owner, "generator", None) for owner in owners_of(loader))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _has_state(thing: Any) -> bool:
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def take_random(generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """The random state: global, and of `generators`."""
    return {"rng": rng_state(), "generators": [g.get_state() for g in generators]}


def put_random(state: dict[str, Any], generators: Sequence[torch.Generator]) -> None:
    set_rng_state(state["rng"])
    put_states(state["generators"], generators)


def put_states(states: Sequence[Any], generators: Sequence[torch.Generator]) -> None:
    for generator, kept in zip(generators, states, strict=True):
        generator.set_state(kept)


def drop(items: Iterator[Any], count: int) -> bool:
    """Drop the first items; returns whether the global random state changed after the first of them."""
    next(items, None)
    before = digest(rng_state())
    for _ in islice(items, count - 1):
        pass
    return digest(rng_state()) != before


class Cursor:
    """A sampler that can skip its first batches, and adds a seed to each index for workers."""

    def __init__(
        self, sampler: Any, batched: bool, marked: bool, generators: list[torch.Generator]
    ) -> None:
        self.sampler, self.batched, self.marked = sampler, batched, marked
        self.generators = generators
        self.skip = self.seed = 0
        self.start: dict[str, Any] | None = None  # random state before the sampler's first draw
        self.again: dict[str, Any] | None = None  # the same, from a checkpoint
        self.draws_late = False
        self._primed: Iterator[Any] | None = None

    def position(self, skip: int, again: dict[str, Any] | None) -> None:
        """Set where the next pass starts; `again`: the random state from which its sampler drew before."""
        self.skip, self.again, self._primed, self.draws_late = skip, again, None, False

    def prime(self) -> None:
        """Skip now, not when the first batch is requested."""
        self._primed = self._positioned()

    def _positioned(self) -> Iterator[Any]:
        if self.again is not None:
            put_random(self.again, self.generators)
        self.start = take_random(self.generators)
        indices: Iterator[Any] = iter(self.sampler)
        self.draws_late = self.skip > 0 and drop(indices, self.skip)
        return indices

    def __iter__(self) -> Iterator[Any]:
        indices, self._primed = self._primed or self._positioned(), None
        seed = self.seed
        if not self.marked:
            yield from indices
        elif self.batched:
            for batch in indices:
                yield [(seed, index) for index in batch]
        else:
            for index in indices:
                yield seed, index

    def __len__(self) -> int:
        return len(self.sampler)


class Seeded(Dataset[Any]):
    """A wrapper of a data set that seeds each sample before loading it; all else is the data set's."""

    def __init__(self, dataset: Any) -> None:
        self.__dict__["dataset"] = dataset

    def __getitem__(self, marked: tuple[int, Any]) -> Any:
        seed_sample(*marked)
        return self.dataset[marked[1]]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)  # a worker_init_fn may set attributes


class SeededBatches(Seeded):
    """`Seeded` for a data set that loads a whole batch at once."""

    def __getitems__(self, marked: Sequence[tuple[int, Any]]) -> Any:
        seed_sample(*marked[0])
        return self.dataset.__getitems__([index for _, index in marked])


class SeededStream(Seeded, IterableDataset[Any]):
    """An iterable data set in persistent workers: each pass has its own seed."""

    def begin(self, seed: int, passes: int, stride: int = ODD) -> None:
        """Set the seed for workers that are created next; existing ones count passes by themselves."""
        self.__dict__.update(_seed=seed + stride * passes, _stride=stride)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        seed_sample(self._seed & BITS, info.id if info is not None else 0)
        self.__dict__["_seed"] += self._stride
        return iter(self.dataset)


def seed_sample(seed: int, index: Any) -> None:
    """Seed Python, NumPy and torch from (seed, index), alike in every process."""
    number = index if isinstance(index, int) else zlib.crc32(repr(index).encode())
    mixed = (seed * 0x5851F42D4C957F2D + number * 0x14057B7EF767814F + 0xB5) & BITS
    mixed ^= mixed >> 33
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(mixed & (2**63 - 1))
