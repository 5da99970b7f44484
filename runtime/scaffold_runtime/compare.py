"""Comparing states bit by bit: a hash of any state, and the first place where two differ."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def digest(value: Any) -> str:
    """A hash of nested tensors and plain values: equal, barring collisions, only if all bits are."""
    found = hashlib.blake2b(digest_size=8)
    for path, leaf in leaves(value):
        found.update(path.encode() + b"\0" + _bits(leaf))
    return found.hexdigest()


def difference(one: Any, other: Any) -> str | None:
    """The first place where two nested structures differ, in words; None if they are identical."""
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    for path in [*ours, *theirs]:
        if path not in ours or path not in theirs:
            return f"`{path}` is only in the {'second' if path in theirs else 'first'}"
        if _bits(ours[path]) != _bits(theirs[path]):
            return f"`{path}` is {_shown(ours[path])} in the first and {_shown(theirs[path])} in the second"
    return None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value in a nested structure, with its path; an empty container counts as one."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield path, value
        return
    if not value:
        yield path, type(value).__name__
    for key, item in items:
        yield from leaves(item, f"{path}.{key}" if path else str(key))


def _bits(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        raw = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{leaf.dtype}{tuple(leaf.shape)}".encode() + raw
    if isinstance(leaf, float):
        return b"float" + struct.pack("<d", leaf)
    return f"{type(leaf).__name__} {leaf!r}".encode()


def _shown(leaf: Any) -> str:
    if isinstance(leaf, Tensor) and leaf.numel() > 4:
        return f"a tensor {tuple(leaf.shape)} named {digest(leaf)}"
    return repr(leaf.tolist() if isinstance(leaf, Tensor) else leaf)
