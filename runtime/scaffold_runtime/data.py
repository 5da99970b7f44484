"""LightningDataModule, and helpers for batches: moving them, changing them, counting their samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from scaffold_runtime.hparams import WithHyperparameters, fitting

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


class DataHooks:
    """Hooks of data modules and modules for loading batches and moving them to the device."""

    def prepare_data(self) -> None:
        """Get the data, once per node. Do not set attributes here: other ranks would not have them."""

    def setup(self, stage: str) -> None:
        """Build datasets for `stage`: "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Release what `setup` created."""

    def train_dataloader(self) -> Any:
        """The loader (or collection of loaders) to train on."""
        raise NotImplementedError

    def val_dataloader(self) -> Any:
        """The loader, or loaders, to validate on."""
        raise NotImplementedError

    def test_dataloader(self) -> Any:
        """The loader, or loaders, to test on."""
        raise NotImplementedError

    def predict_dataloader(self) -> Any:
        """The loader, or loaders, to predict on."""
        raise NotImplementedError

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch before it goes to the device."""
        return batch

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch to `device`; override it for types of batches without a `to`."""
        return move_data_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch on the device."""
        return batch


class LightningDataModule(WithHyperparameters, DataHooks):
    """The data of an experiment: get it, split it, batch it.

    `prepare_data` runs once per machine (download, tokenize; keep no state), `setup(stage)` in every process
    (split, build datasets); then the trainer calls `train_dataloader` etc. for the loaders it needs.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "datamodule_hparams_name"
    prepare_data_per_node: bool = True
    allow_zero_length_dataloader_with_multiple_devices: bool = False
    trainer: Trainer | None = None

    def state_dict(self) -> dict[str, Any]:
        """What to save in checkpoints: tensors and plain values only."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def on_exception(self, exception: BaseException) -> None:
        """Something was raised; it is raised again after this."""

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        val_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        test_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        predict_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> LightningDataModule:
        """A data module over given datasets; only the training loader shuffles. `batch_size` and `num_workers` are also
        passed to its `__init__`, if that takes them."""

        def loaders(datasets: Any, shuffle: bool) -> Any:
            if isinstance(datasets, Mapping):
                return {key: loaders(value, shuffle) for key, value in datasets.items()}
            if isinstance(datasets, Sequence) and not isinstance(datasets, Dataset):
                return [loaders(value, shuffle) for value in datasets]
            shuffle = shuffle and not isinstance(datasets, IterableDataset)
            return DataLoader(
                datasets,
                batch_size=batch_size,
                shuffle=shuffle,
                num_workers=num_workers,
                pin_memory=torch.cuda.is_available(),
            )

        own = {"batch_size": batch_size, "num_workers": num_workers}
        module = cls(**fitting(cls, own), **datamodule_kwargs)
        given = (train_dataset, val_dataset, test_dataset, predict_dataset)
        for name, datasets in zip(("train", "val", "test", "predict"), given, strict=True):
            if datasets is not None:
                made = partial(loaders, datasets, name == "train")
                setattr(module, f"{name}_dataloader", made)
        return module


class NoData(LightningDataModule):
    """The data module of a run that was given none."""


def move_data_to_device(batch: Any, device: torch.device | str) -> Any:
    """Move everything in `batch` that can move to `device`; the structure stays.

    Tensors in pinned memory are moved to GPUs without blocking; other objects by their own `to` method, without
    blocking if it takes `non_blocking`.
    """
    # Not to the CPU: a copy that is not waited for could be read before it has arrived.
    free = torch.device(device).type not in ("cpu", "mps")

    def move(leaf: Any) -> Any:
        if not can_move(leaf):
            return leaf
        kind: Any = type(leaf)
        freely = {"non_blocking": True} if free and _takes_non_blocking(kind) else {}
        moved = leaf.to(device, **freely)
        return leaf if moved is None else moved  # `to` may work in place and return None

    return map_leaves(batch, move)


def in_main_memory(outputs: Any, device: torch.device) -> Any:
    """The outputs of a step on `device`, moved to the CPU, where those of a whole epoch fit."""
    return outputs if device.type == "cpu" else move_data_to_device(outputs, "cpu")


def map_leaves(
    batch: Any, change: Callable[[Any], Any], is_leaf: Callable[[Any], bool] = lambda part: False
) -> Any:
    """`batch` with `change` applied to every part that is not a container or `is_leaf`; the structure stays.

    Containers are mappings, lists, tuples (named ones too) and dataclasses that have no `to` of their own.
    """
    if isinstance(batch, torch.Tensor) or can_move(batch) or is_leaf(batch):
        return change(batch)
    if isinstance(batch, Mapping):
        changed: Any = {key: map_leaves(value, change, is_leaf) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return type(batch)(changed)  # type: ignore[call-arg] # mappings take a dict by custom
        like = copy.copy(batch)  # with other state, such as a defaultdict's factory
        like.update(changed)
        return like
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_leaves(value, change, is_leaf) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_leaves(value, change, is_leaf) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        twin = copy.copy(batch)
        for field in fields(batch):
            value = map_leaves(getattr(batch, field.name), change, is_leaf)
            object.__setattr__(twin, field.name, value)  # works for frozen dataclasses, too
        return twin
    return change(batch)


def convert_floats(batch: Any, dtype: torch.dtype) -> Any:
    """Convert the floating point tensors of a batch to `dtype`."""

    def convert(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(dtype) if floating else leaf

    return map_leaves(batch, convert)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode; afterwards each submodule is back in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def can_move(thing: Any) -> bool:
    """Whether an object has a `to` method."""
    return hasattr(thing, "to") and not isinstance(thing, type)


@cache
def _takes_non_blocking(kind: Any) -> bool:
    """Whether its `to` takes `non_blocking`, like that of tensors and of batches of `transformers`."""
    try:
        return issubclass(kind, torch.Tensor) or "non_blocking" in signature(kind.to).parameters
    except (TypeError, ValueError, AttributeError):  # `to` is in C, or an attribute of the instance
        return False


def batch_size_of(batch: Any) -> int:
    """The first dimension of the first tensor in `batch`, or the length of a list of strings; 1 if it has neither."""
    size = size_in(batch)
    return 1 if size is None else size


def size_in(batch: Any) -> int | None:
    """Like `batch_size_of`, but None if the batch has no such size."""
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    parts = _parts(batch)
    for value in parts:
        size = size_in(value)
        if size is not None:
            return size
    return len(parts) if parts and isinstance(parts[0], str) else None


def sizes_in(batch: Any) -> Iterator[int]:
    """The first dimension of each tensor in `batch`."""
    if isinstance(batch, torch.Tensor) and batch.ndim:
        yield int(batch.shape[0])
    for part in _parts(batch):
        yield from sizes_in(part)


def _parts(batch: Any) -> Sequence[Any]:
    if isinstance(batch, (list, tuple)):
        return batch
    if isinstance(batch, Mapping):
        return list(batch.values())
    known = is_dataclass(batch) and not isinstance(batch, type)
    return [getattr(batch, field.name) for field in fields(batch)] if known else ()
