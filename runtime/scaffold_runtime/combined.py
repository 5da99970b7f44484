"""CombinedLoader: several loaders as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from torch.utils._pytree import tree_flatten, tree_unflatten

from scaffold_runtime.errors import MisconfigurationException, check_choice

MODES = ("min_size", "max_size_cycle", "max_size", "sequential")
_GONE = object()  # in the place of a batch
TAKE_AGAIN = "pass something that can be iterated over again, such as a list or a DataLoader."


class CombinedLoader:
    """Give a batch of each loader at a time, or one loader after another.

    Modes: "min_size" stops with the shortest; "max_size_cycle" repeats shorter ones until the longest
    ends; "max_size" gives None for those that have ended; "sequential" runs them one after another.
    Iterating yields (batch, batch_idx, dataloader_idx), as Lightning's does; a batch has the structure
    of `iterables`.

    Raises:
        MisconfigurationException: for an unknown mode.
    """

    def __init__(self, iterables: Any, mode: str = "min_size") -> None:
        check_choice(self, "mode", mode, *MODES)
        self.iterables = iterables
        self.mode = mode
        self.flattened, self._structure = flatten(iterables)

    def over(self, iterables: list[Any]) -> Batches:
        """The same combination over other loaders, yielding bare batches."""
        return Batches(self.mode, iterables, self._structure)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        alone = self.mode == "sequential"
        for position, loader in enumerate(self.flattened if alone else [self.over(self.flattened)]):
            for index, batch in enumerate(loader):
                yield batch, index, position

    def __len__(self) -> int:
        lengths = [loader_length(loader) for loader in self.flattened]
        if self.mode == "sequential":
            length = sum(lengths)
        else:
            length = (min if self.mode == "min_size" else max)(lengths, default=0)
        if length == math.inf:
            raise TypeError("a combined loader has no length while one of its parts has none")
        return int(length)


class Batches:
    """What a CombinedLoader gives over these parts, one after another or together."""

    def __init__(self, mode: str, iterables: list[Any], structure: Any) -> None:
        self.mode, self.iterables, self.structure = mode, iterables, structure

    def __iter__(self) -> Iterator[Any]:
        """Loaders open at once, so that a resumed run has them all in place before it goes on. Those that
        were positioned know whether they `ended` before: finished, or begun again to fill the epoch.
        """
        ended = [getattr(iterable, "ended", False) for iterable in self.iterables]
        if self.mode == "sequential":
            left = [part for part, done in zip(self.iterables, ended, strict=True) if not done]
            return chain(iter(left[0]), *left[1:]) if left else iter(())
        return self._together([iter(iterable) for iterable in self.iterables], ended)

    def _together(self, iterators: list[Iterator[Any]], ended: list[bool]) -> Iterator[Any]:
        while True:
            parts: list[Any] = []
            for position, iterator in enumerate(iterators):
                over = ended[position] and self.mode == "max_size"
                part = _GONE if over else next(iterator, _GONE)
                if part is _GONE:
                    ended[position] = True
                    if self.mode == "min_size" or all(ended):
                        return
                    part = self._again(iterators, position) if self.mode != "max_size" else None
                parts.append(part)
            yield tree_unflatten(parts, self.structure)

    def _again(self, iterators: list[Iterator[Any]], position: int) -> Any:
        """Begin a loader that has ended anew, and give its first batch."""
        iterators[position] = iter(self.iterables[position])
        first = next(iterators[position], _GONE)
        if first is _GONE:
            raise MisconfigurationException(
                f"loader {position + 1} of the {len(iterators)} of a CombinedLoader cannot be repeated: it is empty, "
                "or gives its batches only once. Check its data, or take mode='min_size'."
            )
        return first


def flatten(iterables: Any) -> tuple[list[Any], Any]:
    """The loaders in a list, a dict or another structure of them, and that structure."""
    return tree_flatten(_plain(iterables), is_leaf=is_loader)


def _plain(iterables: Any) -> Any:
    """The same with plain dicts and lists: torch would take one of a class that derives from them for a loader."""
    if isinstance(iterables, Mapping):
        return {key: _plain(value) for key, value in iterables.items()}
    if isinstance(iterables, list) and not is_loader(iterables):
        return [_plain(value) for value in iterables]
    return iterables


def is_loader(thing: Any) -> bool:
    """Whether a list is a loader itself, and not one of loaders: its items are strings, or give no batches."""
    several = isinstance(thing, (list, tuple)) and bool(thing)
    return several and all(isinstance(each, str) or not gives_batches(each) for each in thing)


def gives_batches(thing: Any) -> bool:
    """Whether one can iterate over it."""
    return hasattr(thing, "__iter__") or hasattr(thing, "__getitem__")


def loader_length(loader: Any) -> float:
    """How many batches a loader has; infinity where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf
