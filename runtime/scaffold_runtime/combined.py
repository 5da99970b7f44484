"""CombinedLoader: several loaders as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from torch.utils._pytree import tree_flatten, tree_unflatten

from scaffold_runtime.errors import MisconfigurationException, check_choice

MODES = ("min_size", "max_size_cycle", "max_size", "sequential")
_END = object()  # marks the end of a loader
TAKE_AGAIN = "pass something that can be iterated over again, such as a list or a DataLoader."


class CombinedLoader:
    """Give a batch of each loader at a time, or one loader after another.

    Modes: "min_size" stops with the shortest; "max_size_cycle" repeats shorter ones until the longest
    ends; "max_size" gives None for loaders that have ended; "sequential" runs them one after another.
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
    """The batches of a CombinedLoader over these loaders, one after another or together."""

    def __init__(self, mode: str, iterables: list[Any], structure: Any) -> None:
        self.mode, self.iterables, self.structure = mode, iterables, structure

    def __iter__(self) -> Iterator[Any]:
        """All loaders are opened first, so that in a resumed run all are positioned before training continues. A
        resumed loader's `ended` says whether it had ended in this epoch, and perhaps was started again.
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
                part = _END if over else next(iterator, _END)
                if part is _END:
                    ended[position] = True
                    if self.mode == "min_size" or all(ended):
                        return
                    part = self._again(iterators, position) if self.mode != "max_size" else None
                parts.append(part)
            yield tree_unflatten(parts, self.structure)

    def _again(self, iterators: list[Iterator[Any]], position: int) -> Any:
        """Restart a loader that has ended, and return its first batch."""
        iterators[position] = iter(self.iterables[position])
        first = next(iterators[position], _END)
        if first is _END:
            raise MisconfigurationException(
                f"loader {position + 1} of the {len(iterators)} of a CombinedLoader cannot be repeated: it is empty, "
                "or gives its batches only once. Check its data, or take mode='min_size'."
            )
        return first


def flatten(iterables: Any) -> tuple[list[Any], Any]:
    """The loaders in a list, dict or other nested structure, and that structure."""
    return tree_flatten(_plain(iterables), is_leaf=is_loader)


def _plain(iterables: Any) -> Any:
    """The same structure of plain dicts and lists: torch's pytree would take a subclass of them for a leaf."""
    if isinstance(iterables, Mapping):
        return {key: _plain(value) for key, value in iterables.items()}
    if isinstance(iterables, list) and not is_loader(iterables):
        return [_plain(value) for value in iterables]
    return iterables


def is_loader(thing: Any) -> bool:
    """Whether a list is itself a loader, not a list of loaders: its items are strings or not iterable."""
    several = isinstance(thing, (list, tuple)) and bool(thing)
    return several and all(isinstance(each, str) or not gives_batches(each) for each in thing)


def gives_batches(thing: Any) -> bool:
    """Whether it can be iterated over."""
    return hasattr(thing, "__iter__") or hasattr(thing, "__getitem__")


def loader_length(loader: Any) -> float:
    """Number of batches of a loader; infinity if it has no length."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf
