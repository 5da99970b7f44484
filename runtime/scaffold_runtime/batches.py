"""Making batches in this process, for loaders without workers: the same as torch's own iterator, but faster.

torch wraps each batch in a profiler record, and collates tensors that are in memory row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    MapDataPipe,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map
from torch.utils.data._utils.pin_memory import pin_memory

Fetch = Callable[[Iterable[Any]], Any]
"""The indices of a batch -> the batch."""
MECHANISM = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
}


def made_here(loader: Any) -> bool:
    """Whether the batches of `loader` depend only on its data set, its batch sampler and `collate_fn`."""
    return (
        isinstance(loader, DataLoader)
        and all(getattr(type(loader), name) is getattr(DataLoader, name) for name in MECHANISM)
        and loader.batch_sampler is not None
        and not (loader.num_workers or loader.timeout)
        # Without a GPU, torch's own iterator warns that it does not pin.
        and (not loader.pin_memory or torch.cuda.is_available())
        and not isinstance(loader.dataset, (IterableDataset, MapDataPipe))
    )


def make_batches(loader: DataLoader[Any], indices: Iterable[Any]) -> Iterator[Any]:
    """The batches for these indices, of a loader for which `made_here` is true."""
    batches = map(_fetch(loader.dataset, loader.collate_fn), indices)
    return map(pin_memory, batches) if loader.pin_memory else batches


def draw_seed(loader: DataLoader[Any]) -> Tensor:
    """Draw the base seed of workers, as torch does at the start of each pass, even without workers."""
    return torch.empty((), dtype=torch.int64).random_(generator=loader.generator)


def replacing(loader: DataLoader[Any], **replaced: Any) -> Any:
    """A copy of a loader with some attributes replaced, which DataLoader's `__setattr__` refuses. Workers of the user's
    own iteration stay with the original."""
    clone = copy.copy(loader)
    clone.__dict__.update(replaced, _iterator=None)
    return clone


class MadeHere:
    """A loader for evaluation; a pass changes the random state exactly as torch's iterator does."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        loader: Any = self._loader
        batches = make_batches(loader, loader.batch_sampler)
        draw_seed(loader)
        return batches


def _fetch(dataset: Any, collate: Callable[[Any], Any]) -> Fetch:
    at_once = getattr(dataset, "__getitems__", None)
    usual = (
        collate is default_collate
        # Users may register their own functions.
        and default_collate_fn_map.get(Tensor) is collate_tensor_fn
        and not isinstance((), tuple(default_collate_fn_map))
    )
    collate = _stacked if usual else collate

    def fetch(indices: Iterable[Any]) -> Any:
        return collate(at_once(indices) if at_once else [dataset[index] for index in indices])

    return _rows(dataset, fetch) if usual else fetch


def _stacked(samples: Any) -> Any:
    """Like `default_collate`, but stacks tuples of tensors directly; leaves other samples, and errors, to it."""
    try:
        first = samples[0]
        if type(first) is tuple and all(map(_dense, first)):
            return [torch.stack(column) for column in zip(*samples, strict=True)]
    except (LookupError, RuntimeError, TypeError, ValueError):
        pass  # `suppress` is slower
    return default_collate(samples)


def _dense(part: Any) -> bool:
    return type(part) is Tensor and part.layout is torch.strided and not part.is_nested


def _rows(dataset: Any, otherwise: Fetch) -> Fetch:
    """Index all rows of a batch at once in tensors in memory: bit-identical to collating single rows."""
    parts = []
    while type(dataset) is Subset:
        parts.append(dataset)
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or hasattr(dataset, "__getitems__"):
        return otherwise
    tensors = dataset.tensors
    if not all(map(_plain, tensors)):
        return otherwise

    def fetch(indices: Iterable[Any]) -> Any:
        rows = indices = list(indices)
        for part in parts:
            chosen: Any = part.indices
            rows = [chosen[row] for row in rows]
        if set(map(type, rows)) != {int} or dataset.tensors is not tensors:
            return otherwise(indices)
        index = torch.tensor(rows, device="cpu")
        return [tensor[index] for tensor in tensors]

    return fetch


def _plain(tensor: Tensor) -> bool:
    return (
        _dense(tensor)
        and tensor.is_contiguous()
        and tensor.dtype in DTYPES
        and tensor.device.type == "cpu"
        and not tensor.requires_grad
    )
