"""Each argument of the Trainer does what it says, and a wrong value is an error that names it."""

from __future__ import annotations

import inspect
import math
import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from scaffold_runtime import Callback, Trainer
from scaffold_runtime.callbacks import (
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    Timer,
)
from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.plugins import MixedPrecision
from scaffold_runtime.sharding import Shares, unshuffled


class Count(Callback):
    """Counts batches of each stage, and notes at which step validation began."""

    def __init__(self) -> None:
        self.train, self.val, self.test, self.predict = 0, 0, 0, 0
        self.sanity = 0
        self.epochs = 0
        self.validated: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.train += 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.sanity_checking:
            self.sanity += 1
        else:
            self.val += 1

    def on_test_batch_end(self, *args: Any) -> None:
        self.test += 1

    def on_predict_batch_end(self, *args: Any) -> None:
        self.predict += 1


class Stream(IterableDataset[Any]):
    """Batches without a length."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        for _ in range(self.batches):
            yield torch.randn(2, 4, generator=generator), torch.zeros(2, 1)


@pytest.fixture
def fitted(regression: Any, make_loader: Any, make_trainer: Any) -> Any:
    """`fitted(train=6, val=3, module=, **arguments)`: a trainer after fit, and what was counted."""

    def run(
        train: Any = 6, val: Any = 3, module: Any = None, callbacks: Any = (), **arguments: Any
    ) -> tuple[Trainer, Count]:
        count = Count()
        trainer = make_trainer(callbacks=[count, *callbacks], **arguments)
        loaders = [make_loader(n) if isinstance(n, int) else n for n in (train, val)]
        trainer.fit(module or regression(), *loaders)
        return trainer, count

    return run


def stream(batches: int) -> DataLoader[Any]:
    return DataLoader(Stream(batches), batch_size=None)


def test_every_argument_is_documented() -> None:
    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    text = (inspect.getdoc(Trainer) or "").partition("Raises:")[0]
    documented = set(re.findall(r"^    (\w+): ", text, re.MULTILINE))
    assert documented == arguments


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Trainer("cpu")  # type: ignore[misc]


# -- how long -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_max_epochs(epochs: int, fitted: Any) -> None:
    trainer, count = fitted(max_epochs=epochs)
    assert (count.epochs, trainer.current_epoch, trainer.global_step) == (
        epochs,
        epochs,
        6 * epochs,
    )


def test_max_epochs_defaults_to_1000_and_a_fit_says_so(
    make_trainer: Any, make_loader: Any, regression: Any
) -> None:
    trainer = make_trainer(max_epochs=None, limit_train_batches=0.5)
    trainer.test(regression(), make_loader(1))  # where it would say nothing about a test
    trainer.should_stop = True
    with pytest.warns(UserWarning, match="1000 epochs") as said:
        trainer.fit(regression(), make_loader(2))
    assert said[0].filename == __file__
    assert trainer.max_epochs == 1000


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_time": "00:12:00:00"}])
def test_another_limit_leaves_epochs_without_one(limit: dict[str, Any]) -> None:
    assert Trainer(accelerator="cpu", logger=False, **limit).max_epochs == -1


@pytest.mark.parametrize(("steps", "epoch"), [(0, 0), (4, 1), (6, 1), (8, 2), (12, 2)])
def test_max_steps(steps: int, epoch: int, fitted: Any) -> None:
    trainer, _ = fitted(max_steps=steps, max_epochs=-1)
    assert (trainer.global_step, trainer.current_epoch) == (steps, epoch)


def test_max_steps_may_change_within_a_fit(fitted: Any) -> None:
    def change(trainer: Any, *_: Any) -> None:
        trainer.fit_loop.epoch_loop.max_steps = 2

    trainer, _ = fitted(max_epochs=3, callbacks=[LambdaCallback(on_train_batch_end=change)])
    assert trainer.global_step == 2


def test_max_steps_counts_optimizer_steps(fitted: Any) -> None:
    trainer, count = fitted(max_steps=3, max_epochs=-1, accumulate_grad_batches=2)
    assert (trainer.global_step, count.train) == (3, 6)


def test_whichever_limit_comes_first(fitted: Any) -> None:
    assert fitted(max_steps=4, max_epochs=3)[0].global_step == 4
    assert fitted(max_steps=40, max_epochs=1)[0].global_step == 6


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, 8),  # at once, in the middle of an epoch
        ({"min_epochs": 1}, 8),
        ({"min_epochs": 3}, 18),
        ({"min_steps": 8}, 8),
        ({"min_steps": 10}, 10),
        ({"min_steps": 15}, 15),
        ({"min_steps": 10, "min_epochs": 3}, 18),
    ],
)
def test_should_stop_waits_for_the_minimum(arguments: Any, steps: int, fitted: Any) -> None:
    trainer, _ = fitted(callbacks=[StopAt(8)], max_epochs=5, **arguments)
    assert trainer.global_step == steps


@pytest.mark.parametrize(
    ("value", "steps"),
    [("00:00:00:00", 0), (timedelta(0), 0), ({"seconds": 0}, 0), ({"microseconds": 1}, 1)],
)
def test_max_time(value: Any, steps: int, fitted: Any) -> None:
    """The time is looked at before training, and after each batch."""
    trainer, _ = fitted(max_time=value, max_epochs=-1)
    assert trainer.global_step == steps
    assert any(isinstance(callback, Timer) for callback in trainer.callbacks)


def test_fast_dev_run(regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Any) -> None:
    for value, batches in ((True, 1), (3, 3)):
        count = Count()
        trainer = make_trainer(
            fast_dev_run=value, callbacks=count, max_epochs=7, max_steps=100, logger=True,
            enable_checkpointing=True, num_sanity_val_steps=2, check_val_every_n_epoch=5,
            default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(regression(), make_loader(6), make_loader(6))
        trainer.test(regression(), make_loader(6))
        trainer.predict(regression(), make_loader(6))
        assert (count.train, count.val, count.test, count.predict) == (batches,) * 4
        assert count.sanity == 0
        trainer.logger.experiment.add_scalar("goes", "nowhere")
    assert list(tmp_path.rglob("*.*")) == []


# -- how much data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "batches"),
    [(None, 6), (1.0, 6), (4, 4), (0.5, 3), (100, 6), (1, 1), (0.99, 5)],
)
def test_limits(
    limit: Any, batches: int, fitted: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    stages = ("train", "val", "test", "predict")
    trainer, count = fitted(6, 6, **{f"limit_{stage}_batches": limit for stage in stages})
    trainer.test(regression(), make_loader(6))
    trainer.predict(regression(), make_loader(6))
    assert [getattr(count, stage) for stage in stages] == [batches] * 4
    assert trainer.num_training_batches == batches
    assert trainer.num_predict_batches == [batches]


def test_a_limit_of_0_switches_a_stage_off(fitted: Any) -> None:
    for zero in (0, 0.0):
        trainer, count = fitted(limit_val_batches=zero)
        assert (count.val, count.sanity, count.train) == (0, 0, 6)
        trainer, count = fitted(limit_train_batches=zero)
        assert (trainer.global_step, count.epochs) == (0, 0)


@pytest.mark.parametrize(
    "arguments", [{"limit_train_batches": 0}, {"max_epochs": 0}, {"max_steps": 0}]
)
def test_with_nothing_to_train_no_training_hook_runs(arguments: Any, fitted: Any) -> None:
    seen: list[str] = []

    class Watch(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append("start")

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append("fit end")

    fitted(callbacks=[Watch()], **arguments)
    assert seen == ["fit end"]


def test_limits_of_several_loaders_are_for_each(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    trainer = make_trainer(limit_val_batches=0.5)
    trainer.validate(Module(), [make_loader(4), make_loader(2)])
    assert trainer.num_val_batches == [2, 1]


@pytest.mark.parametrize("value", [2, 0.34])
def test_overfit_batches(value: Any, fitted: Any, regression: Any, make_loader: Any) -> None:
    seen: dict[str, list[torch.Tensor]] = {"train": [], "val": []}

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen["train"].append(batch[0])
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen["val"].append(batch[0])

    loaders = {"train": make_loader(6, shuffle=True), "val": make_loader(6, 3, shuffle=True)}
    with pytest.warns(UserWarning, match="data is not shuffled"):
        _, count = fitted(*loaders.values(), module=Module(), overfit_batches=value, max_epochs=2)
    assert (count.train, count.val) == (4, 4)
    for stage, loader in loaders.items():
        first = loader.dataset.tensors[0][: loader.batch_size]
        assert all(torch.equal(batch, first) for batch in seen[stage][::2])


def test_overfit_batches_of_samplers_and_several_loaders(regression: Any, make_loader: Any) -> None:
    data = make_loader(6).dataset
    batches = BatchSampler(RandomSampler(data), 3, drop_last=False)
    loaders = CombinedLoader(
        {"a": DataLoader(data, batch_sampler=batches), "b": make_loader(6, shuffle=True)}
    )
    with pytest.warns(UserWarning, match="train data is not shuffled"):
        ordered = unshuffled(loaders, "train")
    drawn = [next(iter(loader.batch_sampler)) for loader in ordered.flattened]
    assert drawn == [[0, 1, 2], [0, 1, 2, 3]]
    divided = Shares(1, 2, seed=0).of_training(ordered)
    drawn = [next(iter(loader.batch_sampler)) for loader in divided.flattened]
    assert drawn == [[1, 3, 5], [1, 3, 5, 7]]


# -- validation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [6, 12]),
        ({"val_check_interval": 1.0}, [6, 12]),
        ({"val_check_interval": 0.5}, [3, 6, 9, 12]),
        ({"val_check_interval": 0.25}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ({"val_check_interval": 4}, [4, 10]),
        ({"val_check_interval": 6}, [6, 12]),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, [4, 8, 12]),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None}, [8]),
        ({"check_val_every_n_epoch": 2}, [12]),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 0.5}, [9, 12]),
        ({"check_val_every_n_epoch": 3}, []),
        ({"val_check_interval": "00:00:00:00"}, list(range(1, 13))),
        ({"val_check_interval": {"hours": 1}}, []),
    ],
)
def test_when_validation_runs(arguments: Any, steps: list[int], fitted: Any) -> None:
    assert fitted(max_epochs=2, **arguments)[1].validated == steps


def test_validation_of_a_stream(fitted: Any) -> None:
    assert fitted(stream(6), max_epochs=2)[1].validated == [6, 12]
    assert fitted(stream(6), max_epochs=2, val_check_interval=4)[1].validated == [4, 10]
    assert fitted(stream(6), stream(3), limit_train_batches=4)[1].validated == [4]


@pytest.mark.parametrize(("steps", "batches"), [(None, 2), (0, 0), (1, 1), (-1, 3), (9, 3)])
def test_num_sanity_val_steps(steps: Any, batches: int, fitted: Any) -> None:
    assert fitted(num_sanity_val_steps=steps)[1].sanity == batches


def test_sanity_check_leaves_random_numbers_and_metrics_alone(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", torch.rand(()))

    drawn = []
    for steps in (0, 2):
        torch.manual_seed(3)
        module = Module()
        module.on_train_start = lambda module=module: drawn.append(
            (torch.rand(()), dict(module.trainer.callback_metrics))
        )
        make_trainer(num_sanity_val_steps=steps).fit(module, make_loader(1), make_loader(3))
    assert drawn[0] == drawn[1]


# -- optimization ---------------------------------------------------------------------------------


def test_accumulate_grad_batches_steps_at_the_end_of_an_epoch(fitted: Any) -> None:
    assert fitted(accumulate_grad_batches=4, max_epochs=2)[0].global_step == 4
    assert fitted(stream(6), accumulate_grad_batches=4, max_epochs=2)[0].global_step == 4


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"max_epochs": 2}, 12),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 4),
        ({"max_epochs": 3, "max_steps": 5}, 5),
        ({"max_epochs": -1, "max_steps": 5}, 5),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
    ],
)
def test_estimated_stepping_batches(
    arguments: Any, steps: float, fitted: Any, regression: Any
) -> None:
    seen: list[float] = []

    class Module(regression):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    trainer, _ = fitted(module=Module(), **arguments)
    assert seen == [steps] == [trainer.global_step]


def test_estimated_stepping_batches_of_a_schedule(fitted: Any, regression: Any) -> None:
    seen = []

    class Module(regression):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    schedule = GradientAccumulationScheduler({0: 1, 1: 4})
    trainer, _ = fitted(module=Module(), max_epochs=3, callbacks=[schedule])
    assert seen == [trainer.global_step]


def test_estimated_stepping_batches_of_a_stream(fitted: Any, regression: Any) -> None:
    seen: list[float] = []

    class Module(regression):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

    fitted(stream(3), module=Module())
    fitted(stream(3), module=Module(), max_steps=2)
    assert seen == [math.inf, 2]


def test_detect_anomaly_finds_the_operation(fitted: Any, regression: Any) -> None:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return (self.loss(batch) * 0).sqrt().mul(0).sum()

    with (
        pytest.warns(UserWarning, match="Error detected"),
        pytest.raises(RuntimeError, match="nan"),
    ):
        fitted(module=Module(), detect_anomaly=True)
    assert not torch.is_anomaly_enabled()


def test_inference_mode(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    seen: list[bool] = []

    class Module(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(torch.is_inference_mode_enabled())

    module = Module()
    make_trainer(num_sanity_val_steps=0).fit(module, make_loader(1), make_loader(1))
    make_trainer().validate(module, make_loader(1))
    make_trainer(inference_mode=False).validate(module, make_loader(1))
    assert seen == [False, True, False]


@pytest.mark.parametrize(("value", "on"), [(True, True), ("warn", True), (False, False)])
def test_deterministic(value: Any, on: bool, make_trainer: Any) -> None:
    make_trainer(deterministic=value)
    assert torch.are_deterministic_algorithms_enabled() is on
    assert torch.is_deterministic_algorithms_warn_only_enabled() is (value == "warn")


def test_benchmark(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    make_trainer(benchmark=True)
    assert torch.backends.cudnn.benchmark
    make_trainer(benchmark=True, deterministic=True)
    assert not torch.backends.cudnn.benchmark


# -- precision and devices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "32-true"), (32, "32-true"), ("32", "32-true"), ("32-true", "32-true"),
        (64, "64-true"), ("64", "64-true"), (16, "16-mixed"), ("16", "16-mixed"),
        ("bf16", "bf16-mixed"), ("bf16-mixed", "bf16-mixed"), ("bf16-true", "bf16-true"),
        ("16-true", "16-true"),
    ],
)  # fmt: skip
def test_precision_names(given: Any, name: str, make_trainer: Any) -> None:
    assert make_trainer(precision=given).precision == name


@pytest.mark.parametrize(
    ("precision", "weights", "inside"),
    [
        ("32-true", torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("16-mixed", torch.float32, torch.float16),
    ],
)
def test_precision_formats(
    precision: str, weights: Any, inside: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(self(batch[0]).dtype)
            return self.loss(batch)

    module = Module()
    make_trainer(precision=precision).fit(module, make_loader(1), make_loader(1))
    assert (module.dtype, seen) == (weights, [inside])
    assert torch.get_default_dtype() is torch.float32


def test_a_precision_plugin_replaces_the_name(fitted: Any) -> None:
    trainer, _ = fitted(plugins=[MixedPrecision("bf16-mixed", "cpu")])
    assert trainer.precision == "bf16-mixed"


@pytest.mark.parametrize("devices", ["auto", 1, "1", [0], "0,", -1])
def test_devices_of_the_cpu(devices: Any) -> None:
    trainer = Trainer(accelerator="cpu", devices=devices, logger=False, max_epochs=1)
    assert (trainer.num_devices, trainer.world_size, trainer.device.type) == (1, 1, "cpu")
    assert trainer.is_global_zero


# -- what comes with it ---------------------------------------------------------------------------


def test_what_is_there_by_default(tmp_path: Any) -> None:
    trainer = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path)
    kinds = {type(callback) for callback in trainer.callbacks}
    assert kinds == {ProgressBar, ModelSummary, ModelCheckpoint}
    assert isinstance(trainer.callbacks[-1], ModelCheckpoint)
    assert len(trainer.loggers) == 1
    assert trainer.log_every_n_steps == 50


def test_what_can_be_switched_off(make_trainer: Any) -> None:
    trainer = make_trainer()
    assert (trainer.callbacks, trainer.loggers, trainer.logger) == ([], [], None)
    barebones = make_trainer(barebones=True)
    assert (barebones.callbacks, barebones.loggers, barebones.num_sanity_val_steps) == ([], [], 0)


def test_default_root_dir_is_where_things_go(
    regression: Any, make_loader: Any, tmp_path: Any
) -> None:
    root = tmp_path / "here"
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, default_root_dir=root)
    trainer.fit(regression(), make_loader(60))
    (saved,) = root.rglob("*.ckpt")
    assert saved.relative_to(root).as_posix() == "checkpoints/epoch=0-step=60.ckpt"


def test_a_tilde_is_the_home_folder(
    regression: Any, make_loader: Any, make_trainer: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", os.path.abspath("home"))
    trainer = make_trainer(default_root_dir="~/runs", enable_checkpointing=True)
    trainer.fit(regression(), make_loader(2))
    trainer.save_checkpoint("~/a.ckpt")
    trainer.test(regression(), make_loader(1), ckpt_path="~/a.ckpt", verbose=False)
    regression.load_from_checkpoint("~/a.ckpt")
    files = sorted(str(p) for p in Path().rglob("*.ckpt"))
    assert files == ["home/a.ckpt", "home/runs/checkpoints/epoch=0-step=2.ckpt"]


def test_one_logger_or_several(make_trainer: Any, recorder: Any, tmp_path: Any) -> None:
    csv = CSVLogger(tmp_path)
    assert make_trainer(logger=recorder).logger is recorder
    trainer = make_trainer(logger=[csv, recorder])
    assert (trainer.logger, trainer.loggers) == (csv, [csv, recorder])
    assert trainer.log_dir == csv.log_dir


@pytest.mark.parametrize(("every", "loaded"), [(0, [0]), (1, [0, 1, 2, 3]), (2, [0, 2])])
def test_reload_dataloaders_every_n_epochs(
    every: int, loaded: list[int], regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    train, val = [], []

    class Module(regression):
        def train_dataloader(self) -> Any:
            train.append(self.current_epoch)
            return make_loader(1)

        def val_dataloader(self) -> Any:
            val.append(self.current_epoch)
            return make_loader(1)

    trainer = make_trainer(
        reload_dataloaders_every_n_epochs=every, max_epochs=4, num_sanity_val_steps=0
    )
    trainer.fit(Module())
    assert train == val == loaded


def test_accepted_in_one_process(fitted: Any) -> None:
    fitted(
        sync_batchnorm=True,
        use_distributed_sampler=False,
        enable_autolog_hparams=False,
        strategy="auto",
        num_nodes=1,
        profiler=None,
        model_registry=None,
    )


# -- wrong values ---------------------------------------------------------------------------------

WRONG = [
    ({"max_epochs": -2}, "max_epochs=-2"),
    ({"max_epochs": 1.5}, "max_epochs=1.5"),
    ({"max_epochs": True}, "max_epochs=True"),
    ({"min_epochs": -1}, "min_epochs=-1"),
    ({"max_steps": -5}, "max_steps=-5"),
    ({"max_steps": None}, "max_steps=None"),
    ({"min_steps": 0.5}, "min_steps=0.5"),
    ({"max_time": "12:00"}, "max_time='12:00' is not a duration"),
    ({"max_time": 3600}, "3600 is not a duration"),
    ({"max_time": {"fortnights": 1}}, "fortnights.*is not a duration"),
    ({"limit_train_batches": -1}, "limit_train_batches=-1"),
    ({"limit_val_batches": 1.5}, "limit_val_batches=1.5"),
    ({"limit_test_batches": "all"}, "limit_test_batches='all'"),
    ({"limit_predict_batches": True}, "limit_predict_batches=True"),
    ({"overfit_batches": 2.5}, "overfit_batches=2.5"),
    ({"val_check_interval": 0}, "val_check_interval=0"),
    ({"val_check_interval": 1.2}, "val_check_interval=1.2"),
    ({"val_check_interval": "often"}, "'often' is not a duration"),
    ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch=0"),
    ({"check_val_every_n_epoch": None}, "needs an integer val_check_interval"),
    ({"num_sanity_val_steps": -2}, "num_sanity_val_steps=-2"),
    ({"log_every_n_steps": -1}, "log_every_n_steps=-1"),
    ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0"),
    ({"accumulate_grad_batches": {0: 2}}, "accumulate_grad_batches={0: 2}"),
    ({"gradient_clip_val": "1"}, "gradient_clip_val='1'"),
    ({"gradient_clip_val": -0.5}, "gradient_clip_val=-0.5"),
    ({"gradient_clip_algorithm": "l2"}, "gradient_clip_algorithm='l2'.*'norm' or 'value'"),
    ({"deterministic": "yes"}, "deterministic='yes'"),
    ({"precision": "8-bit"}, "precision='8-bit' is unknown.*bf16-mixed"),
    ({"precision": 16, "plugins": [MixedPrecision("bf16-mixed", "cpu")]}, "names the precision twice"),
    ({"accelerator": "abacus"}, "abacus"),
    ({"devices": 0}, "devices"),
    ({"strategy": "telepathy"}, "telepathy"),
    ({"num_nodes": 0}, "num_nodes=0"),
    ({"plugins": ["fast"]}, "'fast' is not a plugin"),
    ({"fast_dev_run": -1}, "fast_dev_run=-1"),
    ({"profiler": "fast"}, "profiler='fast' is unknown|'fast'"),
    ({"reload_dataloaders_every_n_epochs": -1}, "reload_dataloaders_every_n_epochs=-1"),
    ({"callbacks": [ModelSummary]}, "is not a Callback.*instances, not classes"),
    ({"callbacks": "early"}, "is not a Callback"),
    ({"logger": "csv"}, "is not a Logger"),
    ({"barebones": True, "enable_progress_bar": True}, "barebones=True, enable_progress_bar=True"),
    ({"barebones": True, "enable_checkpointing": True}, "contradict"),
    ({"barebones": True, "logger": True}, "barebones=True, logger=True"),
    ({"barebones": True, "num_sanity_val_steps": 2}, "contradict"),
    ({"callbacks": ModelCheckpoint()}, "enable_checkpointing=False.*contradicts the Checkpoint"),
    ({"callbacks": ProgressBar()}, "enable_progress_bar=False.*contradicts the ProgressBar"),
    ({"callbacks": [ProgressBar(), ProgressBar()]}, "there are 2 progress bars"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_values(arguments: Any, message: str, make_trainer: Any) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "train", "message"),
    [
        ({"val_check_interval": 7}, 6, "more than the 6 batches"),
        ({"val_check_interval": 0.5}, None, "fraction of an epoch.*no length"),
        ({"limit_train_batches": 0.5}, None, "limit_train_batches=0.5 is a fraction"),
        ({"limit_train_batches": 0.01}, 6, "leaves none"),
        ({"limit_val_batches": 0.1}, 6, "limit_val_batches=0.1 of 3 batches leaves none"),
    ],
)
def test_values_that_do_not_fit_the_data(
    arguments: Any, train: int | None, message: str, fitted: Any
) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fitted(train if train else stream(6), **arguments)


def test_duration_between_validations_is_measured(fitted: Any, regression: Any) -> None:
    class Slow(regression):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.03)

    _, count = fitted(module=Slow(), val_check_interval=timedelta(seconds=0.05))
    assert 1 <= len(count.validated) <= 3
