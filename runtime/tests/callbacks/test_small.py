"""GradientAccumulationScheduler, LambdaCallback, OnExceptionCheckpoint, Timer, DeviceStatsMonitor,
ThroughputMonitor."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import (
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    ThroughputMonitor,
    Timer,
)
from scaffold_runtime.callbacks.throughput_monitor import Throughput, get_available_flops
from scaffold_runtime.errors import MisconfigurationException


class Break(Callback):
    """Raise in the middle of training."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.progress.batches == self.at:
            raise ZeroDivisionError("broken on purpose")


# -- GradientAccumulationScheduler ----------------------------------------------------------------


def test_accumulation_changes_by_epoch(regression, make_loader, make_trainer) -> None:
    scheduler = GradientAccumulationScheduler({0: 3, 2: 2, 3: 1})
    steps: list[int] = []
    note = LambdaCallback(on_train_epoch_end=lambda t, m: steps.append(t.global_step))
    trainer = make_trainer(max_epochs=4, callbacks=[scheduler, note])

    trainer.fit(regression(), make_loader(6))

    assert steps == [2, 4, 7, 13]
    assert trainer.accumulate_grad_batches == 1  # so that the trainer can fit again


def test_accumulation_holds_in_a_run_resumed_inside_an_epoch(
    regression, make_loader, make_trainer
) -> None:
    def train(**arguments: Any) -> Any:
        module = regression()
        scheduler = GradientAccumulationScheduler({0: 1, 1: 3})
        trainer = make_trainer(max_epochs=2, callbacks=[scheduler, *arguments.pop("more", [])])
        torch.manual_seed(3)
        trainer.fit(module, make_loader(6, shuffle=True), **arguments)
        return trainer, module

    torch.manual_seed(0)
    whole, expected = train()

    def save(trainer: Any, module: Any, *_: Any) -> None:
        if trainer.progress.batches == 9:
            trainer.save_checkpoint("mid.ckpt")

    torch.manual_seed(0)
    train(more=[LambdaCallback(on_train_batch_end=save)])
    resumed, module = train(ckpt_path="mid.ckpt")

    assert resumed.global_step == whole.global_step == 8
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name]), name


@pytest.mark.parametrize(
    ("scheduling", "part"),
    [({}, "empty"), ({-1: 2}, "-1"), ({0: 0}, "0 batches"), ({"a": 1}, "'a'")],
)
def test_wrong_schedules_are_refused(scheduling: Any, part: str) -> None:
    with pytest.raises(MisconfigurationException, match=part):
        GradientAccumulationScheduler(scheduling)


def test_two_ways_to_accumulate_are_refused(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(
        accumulate_grad_batches=2, callbacks=GradientAccumulationScheduler({0: 2})
    )

    with pytest.raises(MisconfigurationException, match="leave one out"):
        trainer.fit(regression(), make_loader())
    assert trainer.accumulate_grad_batches == 2


def test_a_schedule_ends_with_training_however_that_ends(
    regression, make_loader, make_trainer
) -> None:
    class Wrong(Break):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise MisconfigurationException("found out late")

    trainer = make_trainer(callbacks=[GradientAccumulationScheduler({0: 4}), Wrong(-1)])
    with pytest.raises(MisconfigurationException, match="found out late"):
        trainer.fit(regression(), make_loader(4))
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Wrong)]
    trainer.fit(regression(), make_loader(4))

    assert trainer.global_step == 2  # one of each run


# -- LambdaCallback -------------------------------------------------------------------------------


def test_functions_are_called_as_hooks_in_order(regression, make_loader, make_trainer) -> None:
    seen: list[str] = []
    callback = LambdaCallback(
        setup=lambda trainer, module, stage: seen.append(f"setup {stage}"),
        on_train_batch_end=lambda *args: seen.append(f"batch {args[-1]}"),
        on_fit_end=lambda trainer, module: seen.append("fit_end"),
    )

    make_trainer(callbacks=callback).fit(regression(), make_loader(2))

    assert seen == ["setup fit", "batch 0", "batch 1", "fit_end"]


def test_a_misspelt_hook_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="Did you mean `on_train_start`"):
        LambdaCallback(on_train_strat=print)
    with pytest.raises(MisconfigurationException, match="give a function"):
        LambdaCallback(on_train_start=3)  # type: ignore[arg-type]


# -- OnExceptionCheckpoint ------------------------------------------------------------------------


def test_a_failure_is_saved_and_resumed_from(regression, make_loader, make_trainer) -> None:
    save = OnExceptionCheckpoint("saved", filename="oops")
    with pytest.raises(ZeroDivisionError):
        make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[save, Break(8)]).fit(
            regression(), make_loader(6)
        )
    assert torch.load("saved/oops.ckpt", weights_only=True)["global_step"] == 8

    save = OnExceptionCheckpoint("saved", "oops")
    trainer = make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=save)
    with pytest.warns(UserWarning, match="saved when training failed, in the middle of a step"):
        trainer.fit(regression(), make_loader(6), ckpt_path="saved/oops.ckpt")

    assert trainer.global_step == 12
    assert Path("saved/oops.ckpt").exists()  # resumed from, hence kept


@pytest.mark.parametrize("whole", [True, False])
def test_last_passes_over_what_was_saved_in_the_middle_of_a_step(
    regression, make_loader, make_trainer, whole: bool
) -> None:
    """Where there is another; with nothing else it is better than nothing, and said so."""

    def trainer(*more: Any) -> Any:
        save = ModelCheckpoint(
            "saved", every_n_train_steps=3 if whole else 100, save_on_exception=True
        )
        return make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[*more, save])

    with pytest.raises(ZeroDivisionError):
        trainer(Break(8)).fit(regression(), make_loader(6))
    resumed = trainer()
    with pytest.warns(UserWarning, match="saved when training failed, in the middle") as seen:
        resumed.fit(regression(), make_loader(6), ckpt_path="last")
    assert len(seen) == 1
    assert resumed.ckpt_path.endswith("epoch=0-step=6.ckpt" if whole else "epoch=1-step=8.ckpt")
    assert ("Resuming from" in str(seen[0].message)) == whole


def test_success_leaves_no_failure_behind(regression, make_loader, make_trainer) -> None:
    Path("saved").mkdir()
    Path("saved/on_exception.ckpt").touch()

    make_trainer(enable_checkpointing=True, callbacks=OnExceptionCheckpoint("saved")).fit(
        regression(), make_loader()
    )

    assert not Path("saved/on_exception.ckpt").exists()


def test_a_failure_before_training_is_raised_as_it_is(
    regression, make_loader, make_trainer
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    callbacks = [OnExceptionCheckpoint("saved"), LambdaCallback(setup=fail)]
    with pytest.raises(ZeroDivisionError):
        make_trainer(enable_checkpointing=True, callbacks=callbacks).fit(
            regression(), make_loader()
        )
    assert not Path("saved").exists()


# -- Timer ----------------------------------------------------------------------------------------


def test_timer_stops_in_time_and_remembers_it(regression, make_loader, make_trainer) -> None:
    timer = Timer(timedelta(seconds=1), verbose=False)
    timer.load_state_dict({"time_elapsed": {"train": 0.999999}})
    trainer = make_trainer(max_epochs=10_000, callbacks=timer)

    trainer.fit(regression(), make_loader())

    assert trainer.current_epoch < 10_000
    assert 0.999 < timer.time_elapsed() < 30
    assert timer.time_remaining() == pytest.approx(1 - timer.time_elapsed())
    assert timer.state_dict()["time_elapsed"]["train"] == timer.time_elapsed()
    assert timer.start_time() < timer.end_time()
    assert timer.start_time("test") is None and timer.time_elapsed("test") == 0.0


def test_timer_interval_epoch_finishes_the_epoch(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(
        max_epochs=5, callbacks=Timer({"microseconds": 1}, interval="epoch", verbose=False)
    )

    trainer.fit(regression(), make_loader(6))

    assert (trainer.current_epoch, trainer.global_step) == (1, 6)


def test_a_resumed_timer_counts_on(regression, make_loader, make_trainer) -> None:
    first = Timer()
    trainer = make_trainer(max_epochs=2, callbacks=first)
    trainer.fit(regression(), make_loader())
    first._before = 100.0
    trainer.save_checkpoint("timed.ckpt")

    second = Timer()
    make_trainer(max_epochs=3, callbacks=second).fit(
        regression(), make_loader(), ckpt_path="timed.ckpt"
    )

    assert 100 < second.time_elapsed() < 130


def test_a_resumed_timer_without_time_left_trains_nothing(
    regression, make_loader, make_trainer
) -> None:
    trainer = make_trainer(max_epochs=2, callbacks=Timer())
    trainer.fit(regression(), make_loader(6))
    trainer.callbacks[-1]._before = 100.0
    trainer.save_checkpoint("timed.ckpt")

    resumed = make_trainer(max_epochs=3, callbacks=Timer({"seconds": 99}, verbose=False))
    resumed.fit(regression(), make_loader(6), ckpt_path="timed.ckpt")

    assert resumed.global_step == 12


# -- monitors -------------------------------------------------------------------------------------


def test_device_stats_are_logged_at_log_steps(
    regression, make_loader, make_trainer, recorder
) -> None:
    trainer = make_trainer(logger=recorder, log_every_n_steps=3, callbacks=DeviceStatsMonitor())

    trainer.fit(regression(), make_loader(6), make_loader(2))

    for hook in ("on_train_batch_start", "on_train_batch_end"):
        load = recorder.values(f"DeviceStatsMonitor.{hook}/cpu_vm_percent")
        assert len(load) == 2
        assert all(0 < value <= 100 for value in load)


def test_device_stats_are_those_asked_for(regression, make_loader, make_trainer, recorder) -> None:
    monitor = DeviceStatsMonitor(filter_keys={"cpu_percent"})
    make_trainer(logger=recorder, callbacks=monitor).fit(regression(), make_loader(2))

    logged = {name for _, row in recorder.rows for name in row if "Device" in name}
    assert {name.rpartition("/")[2] for name in logged} == {"cpu_percent"}


def test_device_stats_without_the_processor(
    regression, make_loader, make_trainer, recorder
) -> None:
    trainer = make_trainer(logger=recorder, callbacks=DeviceStatsMonitor(cpu_stats=False))

    trainer.fit(regression(), make_loader(2))

    assert not [row for _, row in recorder.rows if any("DeviceStats" in name for name in row)]


@pytest.mark.parametrize(
    ("monitor", "name"),
    [
        (DeviceStatsMonitor(), "DeviceStatsMonitor.on_train_batch_start/cpu_percent"),
        (DeviceStatsMonitor(), "DeviceStatsMonitor.on_train_batch_end/cpu_percent"),
        (ThroughputMonitor(lambda batch: len(batch[0])), "train/batches"),
    ],
)
def test_monitors_log_once_per_step_not_per_batch(
    monitor: Any, name: str, regression, make_loader, make_trainer, recorder
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": 4, "log_every_n_steps": 1}
    trainer = make_trainer(logger=recorder, callbacks=monitor, **options)

    trainer.fit(regression(), make_loader(8))

    assert len(recorder.values(name)) == trainer.global_step == 2


@pytest.mark.parametrize(
    "callback", [DeviceStatsMonitor(), ThroughputMonitor(lambda batch: len(batch[0]))]
)
def test_monitors_need_a_logger(callback: Any, regression, make_loader, make_trainer) -> None:
    with pytest.raises(MisconfigurationException, match="nothing to log to"):
        make_trainer(callbacks=callback).fit(regression(), make_loader())


def test_throughput_is_what_the_clock_says() -> None:
    throughput = Throughput(available_flops=100.0, world_size=2, window_size=3)
    for i in range(1, 6):  # one batch of 4 samples and 8 items every half second
        throughput.update(time=i / 2, batches=i, samples=4 * i, lengths=8 * i, flops=10.0)

    values = throughput.compute()

    assert values["device/batches_per_sec"] == pytest.approx(2)
    assert values["device/samples_per_sec"] == pytest.approx(8)
    assert values["device/items_per_sec"] == pytest.approx(16)
    assert values["samples_per_sec"] == pytest.approx(16)
    assert values["device/flops_per_sec"] == pytest.approx(20)
    assert values["device/mfu"] == pytest.approx(0.2)
    assert "mfu" not in values
    throughput.reset()
    assert throughput.compute() == {}


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400", None),
    ],
)
def test_peaks_are_of_the_chip_that_is_named(name, peak, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert get_available_flops(torch.device("cuda"), torch.bfloat16) == peak


def test_throughput_is_logged_per_stage(regression, make_loader, make_trainer, recorder) -> None:
    module = regression()
    module.flops_per_batch = 1000
    monitor = ThroughputMonitor(length_fn=lambda batch: batch[0].numel())
    trainer = make_trainer(logger=recorder, log_every_n_steps=2, max_epochs=2, callbacks=monitor)

    trainer.fit(module, make_loader(6), make_loader(4))
    trainer.test(module, make_loader(4), verbose=False)

    assert recorder.values("train/samples") == [8, 16, 24, 32, 40, 48]
    assert recorder.values("validate/batches") == [2, 4, 2, 4]
    assert recorder.values("test/lengths") == [32, 64]
    assert all(rate > 0 for rate in recorder.values("train/device/flops_per_sec"))
