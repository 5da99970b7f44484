"""Rules that Lightning's own tests hold it to, and that programs rely on without saying so."""

from __future__ import annotations

import re
import warnings
from collections import UserDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from runtime.tests.conftest import Regression
from scaffold_runtime import Callback, LightningDataModule, LightningModule, Trainer
from scaffold_runtime.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
)
from scaffold_runtime.data import batch_size_of
from scaffold_runtime.demos.boring_classes import BoringDataModule, DemoModel
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, StepError
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.loggers.silent import SilentLogger
from scaffold_runtime.precision import Precision, TruePrecision
from scaffold_runtime.profilers import SimpleProfiler
from scaffold_runtime.seed import isolate_rng
from scaffold_runtime.strategies import SingleDeviceStrategy
from scaffold_runtime.trainer.states import RunningStage, TrainerStatus
from scaffold_runtime.utilities import CombinedLoader, measure_flops

# -- loading a checkpoint -------------------------------------------------------------------------


def test_callbacks_load_when_the_weights_are_there(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[str] = []

    class Module(regression):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            seen.append(f"module {torch.equal(self.net[0].weight, weight)}")

    class Keeps(Callback):
        def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            seen.append(f"callback {torch.equal(pl_module.net[0].weight, weight)}")
            pl_module.load_state_dict(zeros)

    trainer = make_trainer()
    trainer.fit(module := Module(), make_loader(1))
    trainer.save_checkpoint("a.ckpt")
    weight = module.net[0].weight.clone()
    zeros = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}

    make_trainer(callbacks=Keeps()).test(loaded := Module(), make_loader(1), ckpt_path="a.ckpt")

    assert seen == ["module False", "callback True"]
    assert not loaded.net[0].weight.any()


class Counts(LightningDataModule):
    """Hands out loaders, and counts in its state."""

    def __init__(self, value: float = 0.0, batches: int = 3) -> None:
        super().__init__()
        self.value, self.batches, self.state = value, batches, 0

    def loader(self) -> DataLoader[Any]:
        data = torch.full((self.batches, 4), self.value)
        return DataLoader(TensorDataset(data, data[:, :1]))

    def train_dataloader(self) -> Any:
        return self.loader()

    def test_dataloader(self) -> Any:
        return self.loader()

    def state_dict(self) -> dict[str, Any]:
        return {"state": 7}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["state"]


@pytest.mark.parametrize("fn", ["fit", "test"])
def test_the_data_module_has_its_state_in_every_run(
    fn: str, regression: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module := regression(), datamodule=Counts())
    trainer.save_checkpoint("a.ckpt")

    getattr(make_trainer(max_epochs=3), fn)(module, datamodule=(data := Counts()), ckpt_path="a.ckpt")  # fmt: skip

    assert data.state == 7


def test_the_trainer_can_be_told_where_runs_begin(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer()
    trainer.fit(module := regression(), make_loader(2))
    trainer.save_checkpoint("a.ckpt")
    [expected] = trainer.test(module, make_loader(2))

    told = make_trainer(max_epochs=2)
    told.ckpt_path = "a.ckpt"
    assert told.test(regression(), make_loader(2)) == [expected]
    told.fit(regression(), make_loader(2))
    assert (told.global_step, told.ckpt_path) == (4, "a.ckpt")
    told.ckpt_path = None
    assert told.test(regression(), make_loader(2)) != [expected]


def test_the_best_of_a_trainer_that_keeps_none(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    make_trainer(enable_checkpointing=True).fit(regression(), make_loader(1))
    trainer = make_trainer()
    assert trainer.test(regression(), make_loader(1), ckpt_path="best")  # of the run before
    trainer.fit(module := regression(), make_loader(1))
    with pytest.raises(CheckpointError, match="kept no best checkpoint"):
        trainer.test(module, make_loader(1), ckpt_path="best")
    callbacks = [
        ModelCheckpoint("a", save_last=True, save_top_k=0),
        ModelCheckpoint("b", monitor="loss"),
    ]
    trainer = make_trainer(enable_checkpointing=True, callbacks=callbacks)
    trainer.fit(module, make_loader(1))
    assert trainer.test(module, make_loader(1), ckpt_path="best")
    assert trainer.ckpt_path == callbacks[1].best_model_path


class Listed(Dataset[Any]):
    """A data set of whole batches."""

    def __init__(self, batches: tuple[Any, ...]) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)


def given(*batches: Any) -> DataLoader[Any]:
    """A loader of these batches."""
    return DataLoader(Listed(batches), batch_size=None, collate_fn=lambda batch: batch)


# -- where batches come from ----------------------------------------------------------------------


def test_an_earlier_data_module_stands_back(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Own(regression):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", batch[0].mean())

    class WithLoader(Own):
        def test_dataloader(self) -> Any:
            return Counts(1.0).loader()

    class Zeroing(Counts):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 0, batch[1]]

    trainer = make_trainer()
    trainer.fit(regression(), datamodule=Zeroing(5.0))
    assert trainer.test(WithLoader(), verbose=False) == [{"mean": 1.0}]
    assert trainer.test(Own(), Counts(3.0).loader(), verbose=False) == [{"mean": 3.0}]
    assert trainer.test(Own(), verbose=False) == [{"mean": 0.0}]  # nothing else is there


def test_loaders_may_be_nested(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    seen: list[tuple[int, type]] = []

    class Sees(regression):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append((dataloader_idx, type(batch)))

    make_trainer().validate(Sees(), UserDict(a=make_loader(1), b=[make_loader(1), make_loader(1)]))
    assert seen == [(0, list), (1, list), (2, list)]


@pytest.mark.filterwarnings("ignore:.*without an optimizer")
def test_lists_of_numbers_are_loaders(make_trainer: Any) -> None:
    class Numbers(LightningModule):
        seen: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen.append(batch)
            return torch.zeros((), requires_grad=True)

        def configure_optimizers(self) -> None:
            return None

    assert [batch for batch, _, _ in CombinedLoader([[1, 2], [3, 4]])] == [[1, 3], [2, 4]]
    make_trainer().fit(module := Numbers(), {"a": [0, 1], "b": [2, 3]})
    make_trainer().fit(module, [8, 9])
    assert module.seen == [{"a": 0, "b": 2}, {"a": 1, "b": 3}, 8, 9]


def test_a_list_of_what_gives_no_batches_is_a_loader(regression: Any, make_trainer: Any) -> None:
    """As environments to play in, of which each is a batch."""
    seen: list[Any] = []

    class Plays(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(batch)

    make_trainer().validate(Plays(), [[place := object()]])
    assert seen == [place]


NONE = pytest.mark.filterwarnings("ignore:.*or the loader gave None")


class Batches(Regression):
    """Notes its hooks, and takes batches that are made once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.calls.append(("start", batch_idx))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append(("end", batch_idx, outputs is None))


class SteppedByHand(Batches):
    """The same, with an `optimizer_step` of its own."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        optimizer.step(closure=closure)


def four(*left_out: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    batches = [[torch.randn(2, 4, generator=generator), torch.ones(2, 1)] for _ in range(4)]
    return given(*(None if i in left_out else batch for i, batch in enumerate(batches)))


def trained(module: Any, batches: DataLoader[Any], trainer: Any, **options: Any) -> Tensor:
    torch.manual_seed(0)
    trainer.fit(made := module(), batches, **options)
    return made.net[0].weight.detach().clone()


def test_a_batch_of_none_is_passed_over(make_trainer: Any) -> None:
    module, trainer = Batches(), make_trainer()
    with pytest.warns(UserWarning, match="or the loader gave None: the batch is skipped"):
        trainer.fit(module, four(1))
    assert module.calls == [
        *[("start", 0), ("end", 0, False), ("end", 1, True)],
        *[("start", 2), ("end", 2, False), ("start", 3), ("end", 3, False)],
    ]
    assert trainer.global_step == 3


@NONE
@pytest.mark.parametrize("left_out", [0, 1, 2, 3])
@pytest.mark.parametrize("saved_at", [1, 2, 3])
@pytest.mark.parametrize("base", [Batches, SteppedByHand])
def test_a_batch_of_none_in_a_window(
    base: type[Batches], left_out: int, saved_at: int, make_trainer: Any
) -> None:
    """It is as one that `training_step` returned None for, and resuming is exact."""

    class Skips(Batches):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == left_out else super().training_step(batch, batch_idx)

    class Saves(Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if arguments[-1] == saved_at - 1:
                arguments[0].save_checkpoint("part.ckpt")

    def trainer(*callbacks: Callback) -> Any:
        window = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}
        return make_trainer(callbacks=list(callbacks), **window)

    whole = trained(base, four(left_out), trainer(Saves()))
    assert torch.equal(whole, trained(Skips, four(), trainer()))
    resumed = trained(base, four(left_out), trainer(), ckpt_path="part.ckpt")
    assert torch.equal(whole, resumed)


def test_from_datasets_tells_the_init() -> None:
    class Takes(LightningDataModule):
        def __init__(self, batch_size: int, num_workers: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()

    class TakesNothing(LightningDataModule):
        pass

    data = TensorDataset(torch.zeros(4, 2))
    made = Takes.from_datasets(data, batch_size=4)
    assert dict(made.hparams) == {"batch_size": 4, "num_workers": 0}
    assert TakesNothing.from_datasets(data, batch_size=2).train_dataloader().batch_size == 2


@pytest.mark.parametrize("how", ["Trainer", "nothing"])
def test_nothing_to_evaluate_calls_no_hooks(
    how: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    def on_test_epoch_end(trainer: Any, pl_module: Any) -> None:
        raise AssertionError

    limit = {"limit_test_batches": 0} if how == "Trainer" else {}
    trainer = make_trainer(callbacks=LambdaCallback(on_test_epoch_end=on_test_epoch_end), **limit)
    assert trainer.test(regression(), make_loader(2) if limit else []) == []


# -- optimizers -----------------------------------------------------------------------------------


class Sharp(SGD):
    """Sharpness-aware: takes the gradient at weights a little up the slope (https://arxiv.org/abs/2010.01412)."""

    evaluations = 0

    @torch.no_grad()
    def step(self, closure: Any = None, scale: float = 1.0) -> Any:
        self.scale = scale
        if closure is None:
            return super().step()
        loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"]]
        steps = [0.05 * p.grad / p.grad.norm() for p in parameters]
        torch._foreach_add_(parameters, steps)
        closure()
        torch._foreach_sub_(parameters, steps)
        type(self).evaluations += 2
        super().step()
        return loss


class Plain(SGD):
    """Takes a closure and calls it once, as most optimizers of other packages do."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        super().step()
        return loss


class Ignoring(SGD):
    """Takes a closure and never calls it."""

    def step(self, closure: Any = None) -> Any:
        return super().step()


def using(kind: type[SGD], **methods: Any) -> type[Batches]:
    def configure_optimizers(self: Any) -> Any:
        return kind(self.parameters(), lr=0.1)

    return type("Using", (Batches,), {"configure_optimizers": configure_optimizers, **methods})


@pytest.mark.parametrize("clipped", [None, 0.1])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_optimizer_may_evaluate_the_loss(
    precision: str, clipped: float | None, make_trainer: Any
) -> None:
    """It goes as in a loop by hand, and the first evaluation is not made twice."""
    calls: list[int] = []

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        calls.append(batch_idx)
        return self.loss(batch)

    trainer = make_trainer(precision=precision, gradient_clip_val=clipped)
    weight = trained(using(Sharp, training_step=training_step), four(), trainer)

    torch.manual_seed(0)
    optimizer = Sharp((by_hand := Batches()).parameters(), lr=0.1)
    for batch in four():

        def closure(batch: Any = batch) -> Tensor:
            with torch.enable_grad():
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, precision == "bf16-mixed"):
                    loss = by_hand.loss(batch)
                loss.backward()
            if clipped:
                torch.nn.utils.clip_grad_norm_(by_hand.parameters(), clipped)
            return loss

        optimizer.step(closure)
    assert torch.allclose(weight, by_hand.net[0].weight, atol=1e-6)
    assert calls == [0, 0, 1, 1, 2, 2, 3, 3]
    assert trainer.global_step == 4


@NONE
@pytest.mark.parametrize("kind", [Plain, Ignoring])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01},
        {"accumulate_grad_batches": "auto"},
        {"precision": "16-mixed", "accumulate_grad_batches": 2},
    ],
)
def test_an_optimizer_that_need_not_evaluate_is_as_torchs_own(
    kind: type[SGD], arguments: Any, make_trainer: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else self.loss(batch)

    def run(kind: type[SGD]) -> tuple[Tensor, int]:
        trainer = make_trainer(**arguments)
        return trained(using(kind, training_step=training_step), four(), trainer), trainer.global_step  # fmt: skip

    (own, steps), (torchs, expected) = run(kind), run(SGD)
    assert torch.equal(own, torchs)
    assert steps == expected


@NONE
def test_a_window_whose_last_batch_has_no_loss_with_a_scaler(make_trainer: Any) -> None:
    """Also where the module steps by itself."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 else self.loss(batch)

    def optimizer_step(self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        optimizer.step(closure=closure)

    def run(**methods: Any) -> tuple[Tensor, int]:
        trainer = make_trainer(precision="16-mixed", accumulate_grad_batches=2)
        made = using(SGD, training_step=training_step, **methods)
        return trained(made, four(), trainer), trainer.global_step

    (own, steps), (usual, expected) = run(optimizer_step=optimizer_step), run()
    assert torch.equal(own, usual)
    assert steps == expected == 2


@pytest.mark.parametrize("automatic", [True, False])
def test_what_a_step_is_given_reaches_the_optimizer(
    automatic: bool, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        automatic_optimization = automatic

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            if not automatic:
                self.manual_backward(loss)
                self.optimizers().step(scale=0.5)
            return loss

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            optimizer.step(closure=closure, scale=0.5)

        def configure_optimizers(self) -> Any:
            return Sharp(self.parameters(), lr=0.1)

    trainer = make_trainer()
    trainer.fit(Module(), make_loader(1))
    assert trainer.optimizers[0].scale == 0.5


def test_a_closure_that_nobody_calls_is_an_error(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Forgets(regression):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            optimizer.step()

    with pytest.raises(StepError, match="did not call the closure"):
        make_trainer().fit(Forgets(), make_loader(1))


def test_a_bare_optimizer_may_be_stepped(make_trainer: Any) -> None:
    def optimizer_step(self: Any, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        optimizer.optimizer.step(closure=closure)

    trainer = make_trainer(max_epochs=3, max_steps=5)
    own = trained(using(SGD, optimizer_step=optimizer_step), four(), trainer)
    assert trainer.global_step == 5
    assert torch.equal(own, trained(using(SGD), four(), make_trainer(max_epochs=3, max_steps=5)))


@pytest.mark.parametrize(
    ("arguments", "clipped"),
    [((), 0.1), ((0.1,), 0.1), ((None, "value"), 0.1), ((0.2,), None), ((None, "norm"), None)],
)
def test_clipping_is_as_the_trainer_says(
    arguments: Any, clipped: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def configure_gradient_clipping(
            self, optimizer: Any, *, gradient_clip_algorithm: Any, gradient_clip_val: Any
        ) -> None:
            assert (gradient_clip_val, gradient_clip_algorithm) == (0.1, "value")
            for parameter in self.parameters():
                parameter.grad = torch.full_like(parameter, 5.0)
            self.clip_gradients(optimizer, *arguments)
            self.seen = {float(p.grad.max()) for p in self.parameters() if p.grad is not None}

    trainer = make_trainer(gradient_clip_val=0.1, gradient_clip_algorithm="value")
    if clipped is None:
        with pytest.raises(MisconfigurationException, match="differ: leave one of them out"):
            trainer.fit(Module(), make_loader(1))
    else:
        trainer.fit(module := Module(), make_loader(1))
        assert list(module.seen) == [pytest.approx(clipped)]


def test_a_subclass_brought_by_the_module_takes_the_place(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Patient(EarlyStopping):
        pass

    class Module(regression):
        def configure_callbacks(self) -> Any:
            return Patient("val_loss", patience=9)

    trainer = make_trainer(callbacks=[EarlyStopping("val_loss", patience=0), LambdaCallback()])
    trainer.fit(Module(), make_loader(1), make_loader(1))
    assert [type(each) for each in trainer.callbacks] == [LambdaCallback, Patient]


# -- hyperparameters ------------------------------------------------------------------------------


@dataclass(eq=False)
class Fields(LightningModule):
    """A module that is a dataclass."""

    lr: float = 0.5
    sizes: list[int] = field(default_factory=lambda: [1, 2])

    def __post_init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()


class Helped(LightningModule):
    """Keeps its hyperparameters in a method that `__init__` calls."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self.save_hyperparameters()


def test_hyperparameters_of_dataclasses_and_of_helpers() -> None:
    assert dict(Fields(0.1).hparams) == {"lr": 0.1, "sizes": [1, 2]}
    assert dict(Helped(3).hparams) == {"width": 3}
    with pytest.raises(MisconfigurationException, match="was called in `begin`"):
        Helped(3).begin()


# -- logging --------------------------------------------------------------------------------------


def test_logging_after_training_is_an_error(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Late(regression):
        def on_train_end(self) -> None:
            self.log("late", 1.0)

    with pytest.raises(MisconfigurationException, match="cannot be called after training"):
        make_trainer().fit(Late(), make_loader(1))


def test_the_bar_knows_values_of_validation_steps(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    during: list[float] = []

    class Steps(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("v", float(batch_idx), on_step=True, on_epoch=False, prog_bar=True)
            during.append(self.trainer.progress_bar_metrics["v"])

    trainer = make_trainer()
    trainer.validate(Steps(), make_loader(2))
    assert during == [0.0, 1.0]
    assert trainer.progress_bar_metrics["v"] == 1.0


def test_reductions_in_capitals(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    class Sums(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("n", 1.0, reduce_fx="SUM")

    assert make_trainer().validate(Sums(), make_loader(3)) == [{"n": 3.0}]


class Bag:
    """A batch of a class that nobody knows."""


@pytest.mark.parametrize(
    ("batch", "size", "said"),
    [
        (Bag(), 1, "weighs every batch the same"),
        (
            {"a": torch.zeros(2), "b": torch.zeros(6, 1)},
            2,
            r"takes 2 as .* tensors of \[2, 6\] rows",
        ),
        ([torch.zeros(4, 2), torch.zeros(4), torch.tensor(1.0)], 4, ""),
        ({"raw": np.array(1.0), "x": torch.zeros(5), "names": [("a", 1)]}, 5, ""),
        (["a", "b"], 2, ""),
    ],
)
def test_means_that_may_weigh_otherwise_are_said(
    batch: Any, size: int, said: str, regression: Any, make_trainer: Any
) -> None:
    class Means(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"a": 1.0, "of the same": 1.0})
            self.log("b", 1.0, batch_size=2)
            self.log("c", 1.0, reduce_fx="max")

    assert batch_size_of(batch) == size
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make_trainer().validate(Means(), given(batch, batch))
    about = [each for each in told if "over an epoch" in str(each.message)]
    assert len(about) == bool(said)
    if said:
        assert re.search(f"'a'.*{said}", str(about[0].message))
        assert about[0].filename == __file__


# -- monitors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["step", "epoch", "lr-SGD", "train_late", "from_callback"])
def test_a_monitor_that_will_be_there(
    monitor: str, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Late(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                stage = "train"
                self.log(f"{stage}_late", 1.0)
            return super().training_step(batch, batch_idx)

    class Logs(Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if arguments[-1] == 2:
                self.log("from" + "_callback", 1.0)

    saves = ModelCheckpoint("kept", monitor=monitor, mode="max", save_top_k=2)
    callbacks = [saves, LearningRateMonitor(), Logs()]
    trainer = make_trainer(
        max_epochs=3, callbacks=callbacks, logger=recorder, enable_checkpointing=True
    )
    trainer.fit(Late(), make_loader(3))
    assert len(list(Path("kept").glob("*.ckpt"))) == 2


@pytest.mark.parametrize(
    ("values", "epochs", "options"),
    [
        ([1.0, 1.05, 1.1, 1.15, 1.2], 5, {"min_delta": -0.1, "patience": 2}),
        ([1.0, 1.2, 1.4, 1.6, 1.8], 3, {"min_delta": -0.1, "patience": 2}),
        ([0.5, 0.6, 0.7, 0.8], 2, {"min_delta": 0.1, "patience": 1, "mode": "max"}),
        ([0.5, 0.61, 0.72, 0.83], 4, {"min_delta": 0.1, "patience": 1, "mode": "max"}),
        ([0.5, 0.6, 0.7, 0.8], 4, {"stopping_threshold": 0.8, "patience": 9, "mode": "max"}),
    ],
)
def test_early_stopping_counts_as_lightning_does(
    values: list[float], epochs: int, options: Any, regression: Any, make_loader: Any,
    make_trainer: Any,
) -> None:  # fmt: skip

    class Told(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("v", torch.tensor(values[self.current_epoch]))

    stopping = EarlyStopping("v", **options)
    trainer = make_trainer(max_epochs=len(values), callbacks=stopping, num_sanity_val_steps=0)
    trainer.fit(Told(), make_loader(1), make_loader(1))
    assert trainer.current_epoch == epochs
    assert stopping.best_score in map(torch.tensor, values)


@pytest.mark.parametrize("trigger", ["every_n_epochs", "every_n_train_steps"])
@pytest.mark.parametrize("async_save", [False, True])
def test_the_last_state_is_saved_where_none_was_due(
    trigger: str, async_save: bool, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    def train(epochs: int, path: str | None = None) -> tuple[Any, Any]:
        saves = ModelCheckpoint("kept", save_last=True, async_save=async_save, **{trigger: 100})
        saves.CHECKPOINT_NAME_LAST = "last-{epoch}-{step}"
        average = EMAWeightAveraging(decay=0.5)
        trainer = make_trainer(
            max_epochs=epochs, callbacks=[saves, average], enable_checkpointing=True
        )
        torch.manual_seed(0)
        trainer.fit(module := regression(), make_loader(3), ckpt_path=path)
        return saves.last_model_path, module

    whole = train(3)[1]
    for file in Path("kept").iterdir():
        file.unlink()
    path = train(1)[0]
    assert [file.name for file in Path("kept").iterdir()] == ["last-epoch=0-step=3.ckpt"]
    path, module = train(3, train(2, path)[0])
    assert Path(path).name.startswith("last-epoch=2-step=9")
    assert torch.equal(module.net[0].weight, whole.net[0].weight)
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 9
    held = saved["current_model_state"]["net.0.weight"]
    assert not torch.equal(held, saved["state_dict"]["net.0.weight"])  # which is the average


def test_scores_are_tensors(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    saves = ModelCheckpoint(monitor="val_loss")
    make_trainer(callbacks=saves, enable_checkpointing=True).fit(
        regression(), make_loader(1), make_loader(1)
    )
    assert saves.current_score == saves.best_model_score == saves.kth_value
    assert isinstance(saves.current_score, Tensor) and isinstance(saves.kth_value, Tensor)


# -- what random programs found -------------------------------------------------------------------


@pytest.mark.parametrize("returns", ["loss", "dict", None])
def test_outputs_of_manual_optimization_are_a_dict(
    returns: str | None, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.manual_backward(loss)
            self.optimizers().step()
            return {"loss": loss, "dict": {"loss": loss, "x": 1}}.get(str(returns))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs)

    make_trainer().fit(Module(), make_loader(1))
    assert list(seen[0]) == {"loss": ["loss"], "dict": ["loss", "x"], None: []}[returns]
    assert not seen[0] or not seen[0]["loss"].requires_grad


def test_predictions_are_of_all_samples(regression: Any, make_trainer: Any) -> None:
    x = torch.arange(20.0).reshape(5, 4)
    loader = DataLoader(TensorDataset(x, x[:, :1]), batch_size=2, drop_last=True)

    class Module(regression):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[1]

    trainer = make_trainer()
    assert torch.cat(trainer.predict(Module(), loader)).flatten().tolist() == x[:, 0].tolist()
    assert trainer.num_predict_batches == [3]
    assert len(loader) == 2  # the loader itself is left alone


def test_two_checkpoint_callbacks_do_not_share_a_file(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    newest = ModelCheckpoint("saved", save_weights_only=True)
    every_other = ModelCheckpoint("saved", save_top_k=-1, every_n_epochs=2)
    make_trainer(callbacks=[newest, every_other], enable_checkpointing=True, max_epochs=3).fit(
        regression(), make_loader(2)
    )
    files = sorted(path.name for path in Path("saved").iterdir())
    assert files == ["epoch=1-step=4-v1.ckpt", "epoch=2-step=6.ckpt"]
    assert every_other.best_model_path.endswith(files[0])
    assert "optimizer_states" in torch.load(every_other.best_model_path, weights_only=True)


def test_a_checkpoint_is_named_by_the_step_it_holds(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Validation was within a window, at whose end the file is written."""
    save = ModelCheckpoint("saved", "{step}", save_top_k=-1, save_on_train_epoch_end=False)
    trainer = make_trainer(
        callbacks=save, enable_checkpointing=True, accumulate_grad_batches=2, val_check_interval=3
    )
    trainer.fit(regression(), make_loader(6), make_loader(1))
    held = {
        path.name: torch.load(path, weights_only=True)["global_step"]
        for path in Path("saved").iterdir()
    }
    assert held == {"step=2.ckpt": 2, "step=3.ckpt": 3}


def test_no_validation_no_interval(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    trainer = make_trainer(val_check_interval=4, limit_val_batches=0)
    trainer.fit(regression(), make_loader(2), make_loader(1))
    assert trainer.global_step == 2


def test_a_fit_begins_without_gradients(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Of a window that an earlier one did not complete, say, where the module clears them after its step."""
    seen: list[Tensor] = []

    class Module(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(batch))
            seen.append(self.net[0].weight.grad.clone())

    module = Module()
    for _ in range(2):
        make_trainer().fit(module, make_loader(1))
    assert torch.equal(*seen)


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda trainer: Trainer(default_root_dir="s3://bucket/runs", max_epochs=1),
        lambda trainer: ModelCheckpoint("gs://bucket"),
        lambda trainer: CSVLogger("memory://logs"),
        lambda trainer: trainer.save_checkpoint("memory://a.ckpt"),
        lambda trainer: LightningModule.load_from_checkpoint("https://place.example/a.ckpt"),
    ],
)
def test_addresses_are_not_made_into_folders(
    use: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer()
    trainer.fit(regression(), make_loader(1))
    with pytest.raises(MisconfigurationException, match="only local files can be"):
        use(trainer)
    with pytest.raises(MisconfigurationException, match="only local files can be"):
        trainer.fit(regression(), make_loader(1), ckpt_path="s3://bucket/a.ckpt")
    assert not list(Path().iterdir())


def test_operations_are_counted() -> None:
    model = torch.nn.Linear(8, 4, device="meta")
    batch = torch.zeros(2, 8, device="meta")
    forward = 2 * 2 * 8 * 4
    assert measure_flops(model, lambda: model(batch)) == forward
    assert measure_flops(model, lambda: model(batch), torch.sum) == 2 * forward  # of the weights


def test_a_silent_logger_takes_every_call() -> None:
    silent = SilentLogger()
    silent.log_image("a", images=[1])  # type: ignore[attr-defined] # any name
    assert list(silent.rows) == []  # type: ignore[attr-defined]
    with silent.experiment.start(tag="a") as started:
        assert not started["run"].busy()
    with pytest.raises(AttributeError):
        _ = silent._private


def test_a_logger_may_have_a_name_of_its_own() -> None:
    class Named(CSVLogger):
        @property
        def name(self) -> str:
            return "mine"

    assert Path(Named("logs", version=3).log_dir) == Path("logs/mine/version_3")


def test_a_precision_with_a_context_that_is_entered_once(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Own(Precision):
        entered = 0

        @contextmanager
        def forward_context(self) -> Iterator[None]:
            self.entered += 1
            yield

    trainer = make_trainer(plugins=(own := Own()))
    trainer.fit(regression(), make_loader(3))
    assert own.entered == 3
    assert trainer.precision == "32-true"


def test_at_least_an_epoch_where_there_is_a_least_number_of_steps(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Stops(regression):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = True

    trainer = make_trainer(min_steps=2)
    trainer.fit(Stops(), make_loader(4))
    assert trainer.global_step == 4


def test_what_the_examples_are_made_of(make_trainer: Any) -> None:
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(model := DemoModel(out_dim=3), datamodule=(data := BoringDataModule()))
    assert model.l1.out_features == 3 and len(data.random_train) == len(data.random_val) == 64


def test_methods_of_strategies_that_nobody_calls_are_said() -> None:
    class Mine(SingleDeviceStrategy):
        def optimizer_step(self, *arguments: Any) -> None:
            raise AssertionError

    class Exact(TruePrecision):
        def convert_input(self, data: Any) -> Any:
            raise AssertionError

    with pytest.warns(UserWarning, match=r"nobody calls `Mine.optimizer_step`"):
        Trainer(strategy=Mine("cpu"), logger=False, max_epochs=1)
    with pytest.warns(UserWarning, match=r"nobody calls `Exact.convert_input`"):
        Trainer(plugins=Exact("32-true", torch.float32), accelerator="cpu", logger=False, max_epochs=1)  # fmt: skip


def test_names_that_callbacks_ask_for(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    seen: list[tuple[int, int, int]] = []

    class Asks(regression):
        def note(self) -> None:
            loop = self.trainer.fit_loop.epoch_loop
            seen.append((loop.batch_idx, loop.total_batch_idx, loop._batches_that_stepped))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.note()
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, *_: Any) -> None:
            self.note()

    trainer = make_trainer(max_epochs=2)
    assert trainer.lightning_module is None
    trainer.fit(Asks(), make_loader(2))
    assert seen == [(0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 1, 1), (0, 2, 2), (0, 2, 2), (1, 3, 3), (1, 3, 3)]  # fmt: skip
    assert RunningStage.SANITY_CHECKING.dataloader_prefix == "val"
    assert RunningStage.TESTING.dataloader_prefix == "test"
    assert RunningStage.SANITY_CHECKING.evaluating and not RunningStage.TRAINING.evaluating
    assert TrainerStatus.FINISHED.stopped and not TrainerStatus.RUNNING.stopped
    assert isinstance(
        Trainer(profiler="SIMPLE", logger=False, max_epochs=1).profiler, SimpleProfiler
    )
    with isolate_rng(include_cuda=False):
        drawn = torch.rand(1)
    assert torch.rand(1) == drawn


# -- what happens before training, and in evaluation ----------------------------------------------


@pytest.mark.parametrize(
    ("every", "asked"),
    [(1, ["train", "val", "on_train_start"]), (2, ["train", "on_train_start", "val"])],
)
def test_validation_data_is_asked_for_before_training(
    every: int, asked: list[str], regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """If the first epoch validates: making it may draw random numbers, and may fail."""
    seen: list[str] = []

    class Module(regression):
        def train_dataloader(self) -> Any:
            seen.append("train")
            return make_loader(1)

        def val_dataloader(self) -> Any:
            seen.append("val")
            return make_loader(1)

        def on_train_start(self) -> None:
            seen.append("on_train_start")

    trainer = make_trainer(num_sanity_val_steps=0, check_val_every_n_epoch=every, max_epochs=2)
    trainer.fit(Module())
    assert seen == asked


def test_a_limit_that_leaves_no_validation_batch_shows_before_training(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(num_sanity_val_steps=0, limit_val_batches=0.3)
    with pytest.raises(MisconfigurationException, match="limit_val_batches"):
        trainer.fit(regression(), make_loader(3), make_loader(3))
    assert trainer.global_step == 0


class Told(Sampler[int]):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))

    def __len__(self) -> int:
        return 4


def test_samplers_of_evaluation_are_told_the_epoch(regression: Any, make_trainer: Any) -> None:
    class Module(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        predict_step = validation_step

    data = TensorDataset(torch.ones(4, 4), torch.ones(4, 1))
    train, val, second = Told(), Told(), Told()
    loaders = [DataLoader(data, sampler=sampler) for sampler in (train, val, second)]
    trainer = make_trainer(max_epochs=3, num_sanity_val_steps=1)
    trainer.fit(module := Module(), *loaders[:2])
    assert (train.epochs, val.epochs) == ([0, 1, 2], [0, 0, 1, 2])
    trainer.validate(module, CombinedLoader(loaders[1:], "min_size"))
    trainer.predict(module, loaders[2])
    assert (val.epochs[4:], second.epochs) == ([3], [3, 3])


def test_whole_numbers_may_be_floats() -> None:
    trainer = Trainer(max_steps=1e5, max_epochs=2.0, log_every_n_steps=1e1, logger=False)  # type: ignore[arg-type]
    assert (trainer.max_steps, trainer.max_epochs, trainer.log_every_n_steps) == (100_000, 2, 10)
    assert isinstance(trainer.max_steps, int)
