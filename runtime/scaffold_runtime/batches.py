"""Batches made in this process, for loaders without workers: what torch's own iterator gives, sooner.

Torch puts a mark for profilers around each batch, and collates tensors that lie in memory row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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

Fetch = Callable[[Sequence[Any]], Any]
"""The indices of a batch -> the batch."""


def made_here(loader: Any) -> bool:
    """Whether the batches of `loader` follow from its data set, its batch sampler and `collate_fn` alone."""
    kind = type(loader)
    return (
        isinstance(loader, DataLoader)
        and kind.__iter__ is DataLoader.__iter__
        and kind._get_iterator is DataLoader._get_iterator
        and loader.batch_sampler is not None
        and not (loader.num_workers or loader.pin_memory)
        and not isinstance(loader.dataset, (IterableDataset, MapDataPipe))
    )


def batches_of(loader: DataLoader[Any], indices: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader that are `made_here`, for these indices."""
    return map(_fetch(loader.dataset, loader.collate_fn), indices)


class MadeHere:
    """A loader, for evaluation: a pass leaves the random numbers as torch's iterator leaves them."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        loader: Any = self._loader
        batches = batches_of(loader, loader.batch_sampler)
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        return batches


def _fetch(dataset: Any, collate: Callable[[Any], Any]) -> Fetch:
    at_once = getattr(dataset, "__getitems__", None)

    def fetch(indices: Sequence[Any]) -> Any:
        return collate(at_once(indices) if at_once else [dataset[index] for index in indices])

    return _rows(dataset, fetch) if collate is default_collate else fetch


def _rows(dataset: Any, otherwise: Fetch) -> Fetch:
    """Take all rows of a batch at once from tensors in memory: bit for bit what collating single ones gives."""
    chosen = []
    while type(dataset) is Subset:
        chosen.append(dataset.indices)
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or not all(map(_plain, dataset.tensors)):
        return otherwise
    tensors = dataset.tensors

    def fetch(indices: Sequence[Any]) -> Any:
        rows = indices
        for picked in chosen:
            rows = [picked[row] for row in rows]
        if set(map(type, rows)) != {int}:
            return otherwise(indices)
        index = torch.tensor(rows)
        return [tensor[index] for tensor in tensors]

    return fetch


def _plain(tensor: Tensor) -> bool:
    alike = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.is_contiguous()
    return alike and tensor.device.type == "cpu" and not tensor.requires_grad
