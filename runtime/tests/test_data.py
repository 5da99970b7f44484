"""Where batches come from and how they reach a step: loaders, combinations, transfer hooks, limits."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data._utils import collate

from scaffold_runtime import LightningDataModule
from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.data import batch_size_of, move_data_to_device
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.loaders import TrainSource, for_evaluation
from scaffold_runtime.positions import Part

MODES = {
    "min_size": [("a0", "b0"), ("a1", "b1")],
    "max_size": [("a0", "b0"), ("a1", "b1"), ("a2", None), ("a3", None), ("a4", None)],
    "max_size_cycle": [("a0", "b0"), ("a1", "b1"), ("a2", "b0"), ("a3", "b1"), ("a4", "b0")],
    "sequential": ["a0", "a1", "a2", "a3", "a4", "b0", "b1"],
}


def letters(letter: str, count: int) -> DataLoader[str]:
    return DataLoader([f"{letter}{index}" for index in range(count)], batch_size=None)  # type: ignore[arg-type]


# -- several loaders as one -----------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), MODES.items())
def test_combined_modes(mode: str, expected: list[Any]) -> None:
    loader = CombinedLoader((letters("a", 5), letters("b", 2)), mode)
    assert [batch for batch, _, _ in loader] == expected
    assert [batch for batch, _, _ in loader] == expected  # again from the start
    assert len(loader) == len(expected)


def test_combined_indices() -> None:
    together = CombinedLoader([letters("a", 2), letters("b", 2)], "min_size")
    assert [(index, loader) for _, index, loader in together] == [(0, 0), (1, 0)]
    after = CombinedLoader([letters("a", 2), letters("b", 2)], "sequential")
    assert [(index, loader) for _, index, loader in after] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_combined_keeps_the_structure() -> None:
    loader = CombinedLoader({"x": letters("a", 1), "y": [letters("b", 1), letters("c", 1)]}, "min_size")  # fmt: skip
    assert next(iter(loader))[0] == {"x": "a0", "y": ["b0", "c0"]}


def test_an_empty_loader_cannot_be_repeated() -> None:
    loader = CombinedLoader(
        {"x": letters("a", 2), "y": [letters("b", 1), letters("c", 0)]}, "max_size_cycle"
    )
    with pytest.raises(MisconfigurationException, match=r"loader 3 of the 3 .* is empty"):
        list(loader)


def test_combined_with_a_stream_has_no_length() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(3))

    stream = DataLoader(Stream(), batch_size=None)
    assert len(CombinedLoader([stream, letters("a", 2)], "min_size")) == 2
    with pytest.raises(TypeError, match="no length"):
        len(CombinedLoader([stream, letters("a", 2)], "max_size_cycle"))
    batches = [batch for batch, _, _ in CombinedLoader([stream, letters("a", 2)], "max_size_cycle")]
    assert batches == [[0, "a0"], [1, "a1"], [2, "a0"]]


def test_combined_mode_must_be_known() -> None:
    with pytest.raises(MisconfigurationException, match=r"mode='longest'.: choose 'min_size'"):
        CombinedLoader([], "longest")


@pytest.mark.parametrize("source", ["dict", "list", "tuple", "combined"])
def test_training_on_several_loaders(
    source: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(batch)
            parts = list(batch.values()) if isinstance(batch, dict) else batch
            return sum(self.loss(part) for part in parts if part is not None)  # type: ignore[return-value]

    pair = (make_loader(2), make_loader(3, size=2))
    made = {
        "dict": {"a": pair[0], "b": pair[1]},
        "list": list(pair),
        "tuple": pair,
        "combined": CombinedLoader({"a": pair[0], "b": pair[1]}, "min_size"),
    }[source]
    trainer = make_trainer()
    trainer.fit(Module(), made)
    assert trainer.num_training_batches == len(seen) == (2 if source == "combined" else 3)
    assert isinstance(seen[0], dict) == (source in ("dict", "combined"))
    parts = list(seen[0].values()) if isinstance(seen[0], dict) else seen[0]
    assert [len(part[0]) for part in parts] == [4, 2]


def test_training_on_one_loader_after_another(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer()
    trainer.fit(regression(), CombinedLoader([make_loader(2), make_loader(3)], "sequential"))
    assert trainer.global_step == 5


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_evaluation_runs_loader_after_loader(
    kind: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[tuple[int, int]] = []

    class Module(regression):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append((dataloader_idx, batch_idx))

    loaders = [make_loader(2), make_loader(1)]
    source = dict(zip("ab", loaders, strict=True)) if kind is dict else kind(loaders)
    assert len(make_trainer().test(Module(), source)) == 2
    assert seen == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(("mode", "batches"), [("min_size", 1), ("max_size_cycle", 2), ("max_size", 2)])  # fmt: skip
def test_evaluation_of_a_batch_of_each_loader_at_a_time(
    mode: str, batches: int, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(batch)
            self.log("first", self.loss(batch["a"]))

    loaders = {"a": make_loader(2), "b": make_loader(1)}
    (result,) = make_trainer().test(Module(), CombinedLoader(loaders, mode))
    assert list(result) == ["first"]
    assert [set(batch) for batch in seen] == [{"a", "b"}] * batches


def test_predict_returns_a_list_per_loader(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return dataloader_idx, batch_idx

    trainer = make_trainer()
    assert trainer.predict(Module(), [make_loader(2), make_loader(1)]) == [
        [(0, 0), (0, 1)],
        [(1, 0)],
    ]
    assert trainer.predict(Module(), make_loader(2)) == [(0, 0), (0, 1)]
    assert trainer.predict(Module(), [make_loader(2)]) == [(0, 0), (0, 1)]
    assert trainer.predict(Module(), make_loader(2), return_predictions=False) is None


def test_predict_step_defaults_to_forward(make_trainer: Any, regression: Any) -> None:
    class Module(regression):
        from scaffold_runtime import LightningModule

        predict_step = LightningModule.predict_step

    module = Module()
    x = torch.ones(2, 4)
    (predicted,) = make_trainer().predict(module, DataLoader(x, batch_size=2))
    assert torch.equal(predicted, module(x))


# -- data modules ---------------------------------------------------------------------------------


class Numbers(LightningDataModule):
    """Loaders of every kind, and a note of what was called."""

    def __init__(self, make_loader: Any) -> None:
        super().__init__()
        self.make_loader = make_loader
        self.called: list[Any] = []

    def prepare_data(self) -> None:
        self.called.append("prepare_data")

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.called.append(("setup", stage))

    def teardown(self, stage: str) -> None:
        self.called.append(("teardown", stage))

    def train_dataloader(self) -> Any:
        return self.make_loader(2)

    def val_dataloader(self) -> Any:
        return self.make_loader(1)

    def test_dataloader(self) -> Any:
        return [self.make_loader(1)]

    def predict_dataloader(self) -> Any:
        return self.make_loader(1)

    def on_exception(self, exception: BaseException) -> None:
        self.called.append(type(exception))


@pytest.mark.parametrize("function", ["fit", "validate", "test", "predict"])
def test_data_module(function: str, regression: Any, make_loader: Any, make_trainer: Any) -> None:
    data = Numbers(make_loader)
    run = getattr(make_trainer(), function)
    run(regression(), datamodule=data)
    assert data.called == ["prepare_data", ("setup", function), ("teardown", function)]
    run(regression(), data)  # in the place of a loader


def test_data_module_hears_of_exceptions(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    data, module = Numbers(make_loader), regression()
    module.training_step = lambda batch, batch_idx: 1 / 0
    with pytest.raises(ZeroDivisionError):
        make_trainer().fit(module, data)
    assert data.called[-1] is ZeroDivisionError


def test_data_module_of_fit_is_used_afterwards(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    data, trainer = Numbers(make_loader), make_trainer()
    trainer.fit(regression(), data)
    assert len(trainer.test()) == 1
    assert trainer.datamodule is data


def test_passed_loaders_win_over_the_modules_own(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def train_dataloader(self) -> Any:
            return make_loader(5)

    trainer = make_trainer()
    trainer.fit(Module())
    assert trainer.global_step == 5
    trainer = make_trainer()
    trainer.fit(Module(), make_loader(2))
    assert trainer.global_step == 2


def test_from_datasets(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    dataset = make_loader(4).dataset
    data = LightningDataModule.from_datasets(dataset, [dataset], dataset, dataset, batch_size=8)
    trainer = make_trainer()
    trainer.fit(regression(), data)
    trainer.test(regression(), data)
    assert (trainer.num_training_batches, trainer.num_test_batches) == (2, [2])
    assert isinstance(trainer.train_dataloader.sampler, torch.utils.data.RandomSampler)
    assert isinstance(data.val_dataloader()[0].sampler, torch.utils.data.SequentialSampler)


def test_loaders_can_be_looked_up(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    train, val = make_loader(1), make_loader(1)
    trainer = make_trainer()
    trainer.fit(regression(), train, val)
    assert trainer.train_dataloader is train
    assert trainer.val_dataloaders is val


# -- on the way to the device ---------------------------------------------------------------------


def test_transfer_hooks_in_order(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    class Module(regression):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [*batch, f"before {dataloader_idx}"]

        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return [*batch[:2], *batch[2:], f"to {device}"]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [*batch, "after"]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[2:] == ["before 0", "to cpu", "after"]
            return self.loss(batch[:2])

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            assert batch[2] == f"before {dataloader_idx}"

    trainer = make_trainer()
    trainer.fit(Module(), make_loader(1))
    trainer.test(Module(), [make_loader(1), make_loader(1)])


def test_transfer_hooks_of_a_data_module_win(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Data(Numbers):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 0, batch[1]]

    class Module(regression):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            raise AssertionError("the data module has this hook")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert not batch[0].any()
            return self.loss(batch)

    make_trainer().fit(Module(), Data(make_loader))


Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Sample:
    x: Tensor
    name: str = "sample"


@dataclass(frozen=True)
class Frozen:
    x: Tensor


class Own:
    """A batch type of one's own, which knows how to move."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: Any) -> Own:
        return Own(self.x.to(device))


@pytest.mark.parametrize(
    ("batch", "leaf"),
    [
        (torch.ones(2), lambda b: b),
        ([torch.ones(2)], lambda b: b[0]),
        ((torch.ones(2), 1), lambda b: b[0]),
        ({"a": [torch.ones(2)]}, lambda b: b["a"][0]),
        (Pair(torch.ones(2), 1), lambda b: b.x),
        (Sample(torch.ones(2)), lambda b: b.x),
        (Frozen(torch.ones(2)), lambda b: b.x),
        (Own(torch.ones(2)), lambda b: b.x),
        ([Sample(torch.ones(2))], lambda b: b[0].x),
    ],
)
def test_everything_that_can_move_moves(batch: Any, leaf: Any) -> None:
    moved = move_data_to_device(batch, torch.device("meta"))
    assert type(moved) is type(batch)
    assert leaf(moved).device.type == "meta"
    assert leaf(batch).device.type == "cpu"  # the original is left alone


def test_what_moves_itself_and_returns_nothing_stays_the_batch() -> None:
    class InPlace:
        x = torch.ones(2)

        def to(self, device: torch.device) -> None:
            self.x = self.x.to(device)

    batch = InPlace()
    assert move_data_to_device([batch], torch.device("meta")) == [batch]
    assert batch.x.device.type == "meta"


@pytest.mark.parametrize("batch", [None, 3, "text", b"bytes", ["a", "b"], {"n": 1}])
def test_what_cannot_move_stays(batch: Any) -> None:
    assert move_data_to_device(batch, torch.device("meta")) == batch


def test_training_on_a_batch_type_of_ones_own(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert isinstance(batch, Sample) and batch.x.dtype is torch.float64
            return self(batch.x).mean()

    def collate(items: list[Any]) -> Sample:
        return Sample(torch.stack([item[0] for item in items]))

    loader = DataLoader(make_loader(2).dataset, batch_size=4, collate_fn=collate)
    make_trainer(precision="64-true").fit(Module(), loader)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(5, 2), 5),
        (torch.ones(()), 1),
        ([torch.ones(3), torch.ones(4)], 3),
        ({"a": torch.ones(6)}, 6),
        ({"a": {"b": [torch.ones(7)]}}, 7),
        (["x", "y"], 2),
        (("id", torch.ones(4)), 4),
        (Sample(torch.ones(8)), 8),
        (Pair(torch.ones(2), 1), 2),
        (None, 1),
        ([], 1),
    ],
)
def test_batch_size_is_guessed(batch: Any, size: int) -> None:
    assert batch_size_of(batch) == size


# -- empty and missing ----------------------------------------------------------------------------


def test_an_empty_training_loader_is_an_error(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    empty = DataLoader(TensorDataset(torch.ones(3, 4)), batch_size=8, drop_last=True)
    with pytest.raises(MisconfigurationException, match=r"length is 0.*drop_last"):
        make_trainer().fit(regression(), empty)


def test_a_validation_without_a_batch_is_said(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Monitors would see the values of the one before."""
    once = (batch for batch in make_loader(2))
    with pytest.warns(UserWarning, match="the validation loader gave no batch") as said:
        make_trainer(max_epochs=3, num_sanity_val_steps=0).fit(regression(), make_loader(1), once)
    assert len([each for each in said if "gave no batch" in str(each.message)]) == 2


def test_an_epoch_without_a_batch_is_an_error(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """It would go on forever where steps are counted."""
    module, once = regression(), iter(list(make_loader(2)))
    trainer = make_trainer(max_epochs=-1, max_steps=3)
    with pytest.raises(MisconfigurationException, match=r"gave no batch.*gives its batches once"):
        trainer.fit(module, once)
    assert (trainer.current_epoch, trainer.global_step) == (1, 2)


class Fewer(IterableDataset[Any]):
    """Three samples, or none, and it says that there are four."""

    def __init__(self, there: int) -> None:
        self.there = there

    def __iter__(self) -> Any:
        return (torch.ones(4) for _ in range(self.there))

    def __len__(self) -> int:
        return 4


def test_fewer_batches_than_the_loader_says(regression: Any, make_trainer: Any) -> None:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch).mean()

    trainer = make_trainer(accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match=r"is 4 batches, and it gave 3\..*limit_train_batches=3"):
        trainer.fit(Module(), DataLoader(Fewer(3), batch_size=1))
    assert trainer.global_step == 1
    with pytest.raises(MisconfigurationException, match="gave no batch"):
        make_trainer().fit(Module(), DataLoader(Fewer(0), batch_size=1))
    batches = TrainSource(DataLoader(Fewer(3), batch_size=1), 1.0, several=True).begin(0, 0)
    with pytest.raises(StepError, match="it gave 3"):  # and other processes do not wait
        list(batches)


def test_an_empty_evaluation_gives_nothing(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    assert make_trainer().test(regression(), []) == []
    assert make_trainer().predict(regression(), []) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_batches(
    workers: int, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[float] = []

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(float(batch[0].sum()))
            return self.loss(batch)

    make_trainer().fit(Module(), make_loader(3, num_workers=workers))
    assert seen == [float(x.sum()) for x, _ in make_loader(3)]


class Rows(Dataset[Tensor]):
    """Each sample is its number, and a random one."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack([torch.tensor(float(index)), torch.rand(())])


class AtOnce(Rows):
    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [-self[index] for index in indices]


class Pairs(Rows):
    """Samples in a form: what `form` makes of a row and its number."""

    def __init__(self, form: Callable[[Tensor, int], Any]) -> None:
        self.form = form

    def __getitem__(self, index: int) -> Any:
        return self.form(super().__getitem__(index), index)


class Shifted(DataLoader[Any]):
    """Gives an iterator of its own."""

    def _get_iterator(self) -> Any:
        return (batch + 1 for batch in super()._get_iterator())


class Lazy:
    """A batch sampler that gives no lists."""

    def __iter__(self) -> Any:
        yield map(int, [3, 1])
        yield {5: "five", 2: "two"}.keys()
        yield (index for index in (4,))

    def __len__(self) -> int:
        return 3


TENSORS = TensorDataset(torch.rand(11, 2, 3), torch.arange(11), torch.rand(11).double())
TURNED = TensorDataset(torch.rand(11, 2, 3, 4).to(memory_format=torch.channels_last))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Rows(), batch_size=4, shuffle=True),
        DataLoader(Rows(), batch_size=4, shuffle=True, generator=torch.Generator(), drop_last=True),
        DataLoader(AtOnce(), batch_size=3, collate_fn=sum),
        DataLoader(Subset(Rows(), [7, 1, 5]), batch_sampler=[[2], [0, 1]]),
        DataLoader(Rows(), batch_size=None, shuffle=True),
        Shifted(Rows()),
        DataLoader(TENSORS, batch_size=4, shuffle=True),
        DataLoader(Subset(Subset(TENSORS, [9, 3, 5, 7]), [3, 1, -2]), batch_size=2, shuffle=True),
        DataLoader(Subset(TENSORS, torch.tensor([4, 2])), batch_size=2),  # type: ignore[arg-type]
        DataLoader(TENSORS, batch_sampler=[[1, -1], [slice(0, 2)], [torch.tensor(3)]]),
        DataLoader(TENSORS, batch_sampler=Lazy()),  # type: ignore[arg-type]
        DataLoader(Subset(TENSORS, range(2, 9)), batch_sampler=Lazy()),  # type: ignore[arg-type]
        DataLoader(TENSORS, batch_size=3, collate_fn=list),
        DataLoader(TURNED, batch_size=3),
        DataLoader(
            Pairs(lambda row, index: (row, torch.tensor(index))), batch_size=3, shuffle=True
        ),
        DataLoader(Pairs(lambda row, index: (row, index)), batch_size=3),
        DataLoader(Pairs(lambda row, index: (row, (row.int(), row.double()))), batch_size=3),
        DataLoader(Pairs(lambda row, index: [row, row.requires_grad_()]), batch_size=3),
        DataLoader(Pairs(lambda row, index: ()), batch_size=3),
    ],
    ids=[
        *("shuffled", "generator", "at once", "subset", "unbatched", "own iterator"),
        *("tensors", "parts of parts", "chosen by a tensor", "odd indices"),
        *("lazy", "lazy part", "own collate", "turned"),
        *("pairs", "pairs with a number", "pairs in pairs", "lists", "nothing"),
    ],
)
@pytest.mark.parametrize("use", ["training", "evaluation"])
def test_the_batches_are_those_that_torch_gives(loader: DataLoader[Any], use: str) -> None:
    def drawn(batches: Callable[[], Iterable[Any]]) -> Any:
        torch.manual_seed(1)
        if isinstance(loader.generator, torch.Generator):
            loader.generator.manual_seed(2)
        return list(batches()), torch.rand(())

    part, evaluated = Part(loader), for_evaluation(loader)
    ours, rest = drawn(lambda: part.open(0) if use == "training" else evaluated)
    theirs, expected = drawn(lambda: loader)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, check_stride=True)
    assert torch.equal(rest, expected)


@pytest.mark.parametrize(
    "form",
    [
        lambda row, index: (row,) if index else (row, row),
        lambda row, index: (row, row) if index else (row,),
        lambda row, index: (row[: index + 1],),
        lambda row, index: ("row",) if index else (row,),
        lambda row, index: (row.to_sparse(),),
        lambda row, index: None,
    ],
)
def test_what_cannot_be_collated_fails_as_with_torch(form: Any) -> None:
    loader = DataLoader(Pairs(form), batch_size=2)
    with pytest.raises((TypeError, RuntimeError)) as expected:
        next(iter(loader))
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        next(Part(loader).open(0))


def test_what_users_change_about_collating_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubles(batch: Any, collate_fn_map: Any = None) -> Tensor:
        return torch.stack(batch).double()

    monkeypatch.setitem(collate.default_collate_fn_map, Tensor, doubles)
    (batch,) = for_evaluation(DataLoader(TensorDataset(torch.ones(3)), batch_size=3))
    assert batch[0].dtype is torch.float64


def test_tensors_may_be_replaced_while_they_are_read() -> None:
    data = TensorDataset(torch.zeros(4))
    seen = []
    for batch in for_evaluation(DataLoader(data, batch_size=2)):
        seen += batch[0].tolist()
        data.tensors = (torch.ones(4),)
    assert seen == [0, 0, 1, 1]


@pytest.mark.parametrize("fails_in", ["", "training_step", "validation_step"])
def test_workers_end_with_the_run_and_not_when_python_collects(
    fails_in: str, regression: Any, make_trainer: Any
) -> None:
    """Collected later, they would not hear of it, and torch would wait five seconds for each."""
    data = TensorDataset(torch.randn(8, 4), torch.randn(8, 1))
    alive = {"num_workers": 1, "multiprocessing_context": "fork"}
    train = DataLoader(data, 2, persistent_workers=True, **alive)
    validation = DataLoader(data, 2, persistent_workers=not fails_in, **alive)

    class Failing(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.check("training_step", batch_idx)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.check("validation_step", batch_idx)

        def check(self, step: str, index: int) -> None:
            if fails_in == step and index == 1:
                raise ValueError(step)

    trainer = make_trainer(max_epochs=2)
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            trainer.fit(Failing(), train, validation)
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


def test_workers_of_an_epoch_end_with_it(regression: Any, make_trainer: Any) -> None:
    """Also where batches are left over, which were loaded ahead; the next epoch starts its own."""
    data = TensorDataset(torch.randn(40, 4), torch.randn(40, 1))
    loader = DataLoader(data, 2, num_workers=2, multiprocessing_context="fork")
    seen: list[int] = []

    class Count(regression):
        def count(self, *arguments: Any) -> None:
            seen.append(len(multiprocessing.active_children()))

        on_train_batch_start = on_train_epoch_start = on_train_epoch_end = count

    make_trainer(max_epochs=2, limit_train_batches=1).fit(Count(), loader)
    assert seen == [0, 2, 0, 0, 2, 0]


def test_a_worker_that_dies_when_all_is_done_fails_nothing(
    regression: Any, make_trainer: Any
) -> None:
    """It was loading ahead."""

    class Dying(Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Any:
            if index == 6:
                os._exit(3)
            return torch.randn(4), torch.randn(1)

    alive = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
    trainer = make_trainer(max_steps=1)

    class Waits(regression):
        def on_train_end(self) -> None:
            multiprocessing.active_children()[0].join(5)

    trainer.fit(Waits(), DataLoader(Dying(), 2, **alive))
    assert trainer.state.finished
