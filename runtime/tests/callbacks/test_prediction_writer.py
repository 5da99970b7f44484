"""BasePredictionWriter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from scaffold_runtime.callbacks import BasePredictionWriter
from scaffold_runtime.errors import MisconfigurationException


class Writer(BasePredictionWriter):
    def __init__(self, write_interval: str) -> None:
        super().__init__(write_interval)
        self.batches: list[tuple[Any, ...]] = []
        self.epochs: list[tuple[Any, Any]] = []

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert torch.equal(pl_module(batch[0]), prediction)
        self.batches.append((dataloader_idx, batch_idx, batch_indices))

    def write_on_epoch_end(
        self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any
    ) -> None:
        self.epochs.append((predictions, batch_indices))


@pytest.mark.parametrize("workers", [0, 2])
def test_indices_name_the_samples_also_shuffled(
    workers: int, regression, make_loader, make_trainer
) -> None:
    loader = make_loader(3, shuffle=True, num_workers=workers)
    writer, module = Writer("batch_and_epoch"), regression()

    kept = make_trainer(callbacks=writer).predict(module, loader, return_predictions=False)

    assert kept is None
    predictions, (indices,) = writer.epochs[0]
    drawn = [place for places in indices for place in places]
    assert sorted(drawn) == list(range(12)) != drawn
    inputs = loader.dataset.tensors[0]
    for prediction, places in zip(predictions, indices, strict=True):
        assert torch.equal(prediction, module(inputs[places]))
    assert [batch for _, batch, _ in writer.batches] == [0, 1, 2]
    assert [places for *_, places in writer.batches] == indices


@pytest.mark.parametrize(
    ("interval", "batches", "epochs"), [("batch", 2, 0), ("epoch", 0, 1), ("batch_and_epoch", 2, 1)]
)
def test_the_interval_decides_what_is_called(
    interval: str, batches: int, epochs: int, regression, make_loader, make_trainer
) -> None:
    writer = Writer(interval)

    kept = make_trainer(callbacks=writer).predict(regression(), make_loader(2))

    assert (len(writer.batches), len(writer.epochs)) == (batches, epochs)
    assert len(kept) == 2


def test_several_loaders_give_a_list_each(regression, make_loader, make_trainer) -> None:
    class Several(regression):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return self(batch[0])

    writer = Writer("batch_and_epoch")

    make_trainer(callbacks=writer).predict(Several(), [make_loader(2), make_loader(1)])

    predictions, indices = writer.epochs[0]
    assert [len(part) for part in predictions] == [2, 1]
    assert indices == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 2, 3]]]
    assert [place[:2] for place in writer.batches] == [(0, 0), (0, 1), (1, 0)]


def test_a_stream_has_no_indices(regression, make_trainer) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.ones(4),), (torch.zeros(4),)])

    writer = Writer("batch")
    make_trainer(callbacks=writer).predict(regression(), DataLoader(Stream(), batch_size=1))

    assert [indices for *_, indices in writer.batches] == [[], []]


def test_another_interval_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="'step'"):
        Writer("step")


def test_an_interval_at_which_nothing_is_written_is_refused(
    regression, make_loader, make_trainer
) -> None:
    class AtTheEnd(BasePredictionWriter):
        def write_on_epoch_end(self, *args: Any) -> None:
            pass

    for interval in ("epoch", "batch_and_epoch"):
        make_trainer(callbacks=AtTheEnd(interval)).predict(regression(), make_loader(1))
    with pytest.raises(MisconfigurationException, match="nothing without a `write_on_batch_end`"):
        make_trainer(callbacks=AtTheEnd("batch")).predict(regression(), make_loader(1))
