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


def to_plain(value: Any, path: str = "checkpoint") -> Any:
    """Return `value` with every part a tensor or plain; `path` names it in errors.

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
        return to_plain(value.value, path)
    if isinstance(value, dict):
        return _mapping(value, path)
    if type(value) is torch.Size:
        return tuple(value)
    if isinstance(value, tuple):
        return tuple(to_plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(value, list):
        return [to_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [to_plain(item, f"{path}[...]") for item in sorted(value, key=repr)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise CheckpointError(_refusal(value, path))


def opened(value: Any, resolve: bool = False) -> Any:
    """A Namespace, or a configuration of OmegaConf, as what it holds; anything else as it is.

    `resolve` says whether values that refer to others are those, as in logs, or the reference, as in files.
    """
    if isinstance(value, Namespace):
        return vars(value)
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is not None and omegaconf.OmegaConf.is_config(value):
        return omegaconf.OmegaConf.to_container(value, resolve=resolve)
    return value


def _mapping(value: dict[Any, Any], path: str) -> dict[Any, Any]:
    for key in value:
        if not isinstance(key, (str, int, float, bool, tuple)):
            raise CheckpointError(
                f"`{path}` has a key of type {type(key).__name__}; keys must be strings or numbers."
            )
    items = {key: to_plain(item, f"{path}.{key}") for key, item in value.items()}
    if type(value) not in MAPPINGS or type(value) is dict:
        return items
    if isinstance(value, Counter):
        return Counter(items)
    ordered = OrderedDict(items)
    if hasattr(value, "_metadata"):  # a state_dict: torch keeps layer versions there
        ordered._metadata = dict(value._metadata)  # type: ignore[attr-defined] # torch does the same
    return ordered


def _refusal(value: Any, path: str) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return (
        f"`{path}` is a {kind}, which cannot be stored safely: a checkpoint holds only tensors and plain values, so "
        "that loading one never runs code. Save its state as tensors, numbers, strings, lists and dicts instead."
    )
