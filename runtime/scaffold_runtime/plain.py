"""Plain values: the only things a checkpoint may hold besides tensors."""

from __future__ import annotations

import enum
import os
import sys
from argparse import Namespace
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch

from scaffold_runtime.errors import CheckpointError

ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.dtype, torch.device)
MAPPINGS = (dict, OrderedDict, Counter)
LEFT_OUT = object()  # marks what cannot be stored, until it is dropped


def to_plain(value: Any, path: str = "checkpoint", left_out: list[str] | None = None) -> Any:
    """Convert `value` to tensors and plain values; `path` names it in errors. If a list `left_out` is given, error
    messages are added to it instead of raised, and the parts they are about are left out (None in a list).

    Subclasses of dict, list, str and numbers become their plain base; paths become strings, NumPy
    scalars Python numbers, enums their values.

    Raises:
        CheckpointError: naming the first part that cannot be stored safely.
    """
    if isinstance(value, torch.Tensor):
        return value.detach() if type(value) is torch.nn.Parameter else value
    if type(value) in ATOMS:
        return value
    if isinstance(value, enum.Enum):
        return to_plain(value.value, path, left_out)
    if isinstance(value, dict):
        return _mapping(value, path, left_out)
    if type(value) is torch.Size:
        return tuple(value)
    if isinstance(value, (tuple, list)):
        items = [to_plain(item, f"{path}[{i}]", left_out) for i, item in enumerate(value)]
        kept = (None if item is LEFT_OUT else item for item in items)
        return tuple(kept) if isinstance(value, tuple) else list(kept)
    if isinstance(value, (set, frozenset)):
        return to_plain(sorted(value, key=repr), path, left_out)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    named = hasattr(value, "__qualname__")  # a class or a function
    kind = value if named else type(value)
    what = f"{'' if named else 'a '}{kind.__module__}.{kind.__qualname__}"
    return _refused(
        f"`{path}` is {what}, which cannot be stored safely: a checkpoint holds only tensors and plain values, so "
        "that loading one never runs code. Save its state as tensors, numbers, strings, lists and dicts instead.",
        left_out,
    )


def opened(value: Any, resolve: bool = False) -> Any:
    """A Namespace or an OmegaConf configuration as a plain container; anything else unchanged.

    `resolve`: replace references to other values by these, as for logs; otherwise keep them, as for checkpoints.
    """
    if isinstance(value, Namespace):
        return vars(value)
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is not None and omegaconf.OmegaConf.is_config(value):
        return omegaconf.OmegaConf.to_container(value, resolve=resolve)
    return value


def _mapping(value: dict[Any, Any], path: str, left_out: list[str] | None) -> Any:
    for key in value:
        if not isinstance(key, (str, int, float, bool, tuple)):
            kind = type(key).__name__
            return _refused(
                f"`{path}` has a key of type {kind}; keys must be strings or numbers.", left_out
            )
    inside = f"{path}." if path else ""
    plain = {key: to_plain(item, f"{inside}{key}", left_out) for key, item in value.items()}
    items = {key: item for key, item in plain.items() if item is not LEFT_OUT}
    if type(value) not in MAPPINGS or type(value) is dict:
        return items
    if isinstance(value, Counter):
        return Counter(items)
    ordered = OrderedDict(items)
    if hasattr(value, "_metadata"):  # a state_dict: torch keeps layer versions there
        ordered._metadata = dict(value._metadata)  # type: ignore[attr-defined] # torch does the same
    return ordered


def _refused(reason: str, left_out: list[str] | None) -> Any:
    if left_out is None:
        raise CheckpointError(reason)
    left_out.append(reason)
    return LEFT_OUT
