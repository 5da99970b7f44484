"""The loaders of a run: combining them, limiting them, and the position in the training data."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from scaffold_runtime.batches import MadeHere, made_here, replacing
from scaffold_runtime.combined import TAKE_AGAIN, CombinedLoader, flatten, is_loader, loader_length
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, StepError, warn
from scaffold_runtime.positions import Part, drop, generators_of, put_random, put_states
from scaffold_runtime.seed import raw_rng, rng_state
from scaffold_runtime.workers import StaysOn, start

Limit = int | float
_END = object()


def limited(length: float, limit: Limit, argument: str) -> float:
    """Apply a `limit_*_batches` argument: an int is a count, a float a fraction.

    Raises:
        MisconfigurationException: for a fraction of a loader without a length, or one that leaves no batch.
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
    """Combine several training loaders into one that gives a batch of each."""
    if isinstance(source, (Mapping, list, tuple)) and not is_loader(source):
        return CombinedLoader(source, "max_size_cycle")
    return source


def parts_of(loader: Any) -> list[Any]:
    """The loaders inside a combined one, or the loader itself."""
    return loader.flattened if isinstance(loader, CombinedLoader) else [loader]


def as_eval_loaders(source: Any) -> list[Any]:
    """The loaders of an evaluation, which runs over one after another."""
    if isinstance(source, CombinedLoader) and source.mode == "sequential":
        return list(source.flattened)
    return [] if source is None else flatten(source)[0]


class TrainSource:
    """The training batches of a run, and the position in them."""

    def __init__(self, loader: Any, limit: Limit, several: bool = False) -> None:
        self.loader, self.several = loader, several  # more than one rank
        self.parts = [Part(part) for part in parts_of(loader)]
        length = loader_length(loader)
        self.length = limited(length, limit, "limit_train_batches")
        self.counted = length != math.inf  # a stream may end before its limit
        self.over = False  # whether the run resumed after the last batch of its epoch
        self._kept: dict[str, Any] | None = None
        self._position: dict[str, Any] | None = None

    def begin(self, epoch: int, skip: int) -> Iterator[tuple[Any, bool]]:
        """Yield (batch, whether it is the last of the epoch), from batch number `skip` on."""
        kept, self._kept, self._position = self._kept, None, None
        for part in self.parts:
            part.begin_epoch(epoch)
        over = kept is not None and skip > 0 and (kept["over"] or skip >= self.length)
        self.over = over
        if kept is not None:
            for part, state in zip(self.parts, kept["parts"], strict=True):
                part.load_state_dict(state, mid_epoch=skip > 0 and not over)
        batches = iter(()) if over else self._open(skip, resumed=kept is not None)
        if kept is not None and skip and kept["ahead"] is not None:
            put_random(kept["ahead"], self._generators())
        flagged = self._counted(batches, skip) if self.counted else self._ahead(batches, skip)
        if kept is not None:
            put_states(kept["generators"], self._generators())
        return flagged

    def _open(self, skip: int, resumed: bool) -> Iterator[Any]:
        if not isinstance(self.loader, CombinedLoader):
            return self.parts[0].open(skip)
        batches: Iterator[Any] = iter(self.loader.over(self.parts))
        if skip and not resumed:
            drop(batches, skip)
        return batches

    def _counted(self, batches: Iterator[Any], start: int) -> Iterator[tuple[Any, bool]]:
        index, last = start - 1, int(self.length) - 1
        for index, batch in enumerate(islice(batches, max(last + 1 - start, 0)), start):
            yield batch, index == last
        self.close(epoch=True)
        if index < last:
            self._fewer(index + 1)

    def _fewer(self, given: int) -> None:
        """Called when an epoch ended too soon: warn, or raise if other ranks would wait for this one's gradients."""
        if not given:
            raise MisconfigurationException(
                f"the training loader gave no batch in this epoch. A generator gives its batches once: {TAKE_AGAIN}"
            )
        message = (
            f"the length of the training loader is {int(self.length)} batches, and it gave {given}. What is due with "
            "the last batch of an epoch (validation, a step of accumulated gradients) was left out. Correct its "
            f"`__len__`, or set Trainer(limit_train_batches={given})."
        )
        if self.several:
            raise StepError(message)
        warn(message)

    def _ahead(self, batches: Iterator[Any], skip: int) -> Iterator[tuple[Any, bool]]:
        """For a loader without a length: draw one batch ahead to know whether a batch is the last."""
        if self.length != math.inf:
            batches = islice(batches, int(self.length) - skip)
        first = next(batches, _END)
        if first is _END and not skip:
            self._fewer(0)
        return self._one_ahead(first, batches)

    def _one_ahead(self, held: Any, batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
        while held is not _END:
            self._position = self._here(ahead=True)
            for part in self._position["parts"]:
                # A user's loader may return its live state.
                part["inner"] = copy.deepcopy(part["inner"])
            ahead = next(batches, _END)
            if ahead is _END:
                self._position = {**self._here(ahead=False), "over": True}
            yield held, ahead is _END
            held = ahead
        self._position = None
        self.close(epoch=True)

    def _here(self, ahead: bool, mid_epoch: bool = True) -> dict[str, Any]:
        in_process = ahead and any(not part.workers for part in self.parts)
        return {
            "parts": [part.state_dict(mid_epoch) for part in self.parts],
            "ahead": (raw_rng(), self._states()) if in_process else None,
            "over": False,  # whether the last batch of the epoch was delivered
        }

    def close(self, epoch: bool = False) -> None:
        """Stop the workers; at the end of an `epoch` only those that are not persistent."""
        for part in self.parts:
            if not (epoch and part.persistent):
                part.close()

    def _generators(self) -> list[torch.Generator]:
        return [generator for part in self.parts for generator in generators_of(part.loader)]

    def _states(self) -> list[Any]:
        return [generator.get_state() for generator in self._generators()]

    def state_dict(self, mid_epoch: bool) -> dict[str, Any]:
        """The position, for `load_state_dict`."""
        ahead = self._position if mid_epoch else None
        here = ahead or self._here(ahead=False, mid_epoch=mid_epoch)
        drew = here["ahead"]
        at = None if drew is None else {"rng": rng_state(drew[0]), "generators": drew[1]}
        return {**here, "ahead": at, "generators": self._states()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the position of the next `begin`.

        Raises:
            CheckpointError: if it is a position in a different number of loaders or generators.
        """
        if not state:
            return
        kept = len(state["parts"]), len(state["generators"])
        here = len(self.parts), len(self._generators())
        if kept != here:
            raise CheckpointError(
                f"the checkpoint holds a position in {kept[0]} training loader(s) with {kept[1]} generator(s); "
                f"there are {here[0]} with {here[1]}. Resume with the loaders the run began with."
            )
        self._kept = state
        # Now, since the loader may be created again before `begin`.
        put_states(state["generators"], self._generators())


class Repeatable(Part):
    """An evaluation loader with persistent workers: each evaluation has the same seed, however many came before."""

    def __iter__(self) -> Iterator[Any]:
        self.seed, self.passes = torch.initial_seed() & (2**63 - 1), 1
        self.stride = 0  # workers of streams count passes: give each the same seed
        return self.open(0)


class Passing:
    """An evaluation loader whose workers end with their pass or, after an error, when the run closes it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._batches: Any = lambda: None

    def __iter__(self) -> Iterator[Any]:
        batches = start(self._loader)
        self._batches = weakref.ref(batches)
        return batches

    def close(self) -> None:
        batches = self._batches()
        if batches is not None:
            batches._shutdown_workers()


def for_evaluation(loader: Any) -> Any:
    """The iterable that evaluation uses in place of `loader`."""
    if isinstance(loader, CombinedLoader):  # a batch of each at a time
        return loader.over([for_evaluation(part) for part in loader.flattened])
    if not (isinstance(loader, DataLoader) and loader.num_workers):
        return MadeHere(loader) if made_here(loader) else loader
    if (repeatable := Repeatable(loader)).persistent:
        return repeatable
    return Passing(replacing(loader, worker_init_fn=StaysOn(loader.worker_init_fn)))
