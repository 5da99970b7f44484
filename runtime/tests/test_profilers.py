"""Profilers: what they measure, what they write, and that without one nothing is measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.profiler_util import EventList

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import LambdaCallback
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)
from scaffold_runtime.profilers.simple import PARTS
from scaffold_runtime.run import Run


class Slow(Callback):
    """A hook that takes its time."""

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        time.sleep(0.01)


@pytest.fixture
def profiled(regression) -> Any:
    """A module that measures a part of its own step, with the trainer's profiler."""

    class Profiled(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with self.trainer.profiler.profile("my part"):
                time.sleep(0.002)
            return super().training_step(batch, batch_idx)

    return Profiled


def test_simple_says_where_a_step_went(profiled, make_loader, make_trainer, capsys) -> None:
    profiler = SimpleProfiler()
    trainer = make_trainer(
        profiler=profiler,
        callbacks=Slow(),
        gradient_clip_val=1.0,
        enable_checkpointing=True,
        default_root_dir="root",
    )

    trainer.fit(profiled(), make_loader(6), make_loader(2))

    calls = {name: action.calls for name, action in profiler.actions.items()}
    assert calls["training_step"] == calls["backward"] == calls["optimizer.step"] == 6
    assert calls["my part"] == calls["optimizer.clip"] == calls["Slow.on_train_batch_start"] == 6
    assert calls["data"] == 7  # the last time, there is no more
    assert calls["epoch"] == calls["validate"] == 1
    assert calls["validation_step"] == 4  # two in the sanity check
    parts = profiler.parts
    assert set(parts) == set(PARTS.values())
    assert parts["hooks"] >= 0.06  # the slow callback, and nothing of it elsewhere
    assert parts["forward"] >= 0.012  # what is measured inside a step belongs to it
    assert max(parts, key=parts.__getitem__) == "hooks"
    assert sum(parts.values()) == pytest.approx(profiler.actions["epoch"].total, rel=0.01)
    out = capsys.readouterr().out
    assert "FIT profile" in out and "Where 6 training steps went" in out
    for line in ("data wait", "forward", "engine", "Slow.on_train_batch_start"):
        assert f"\n{line} " in out


def test_a_run_saved_within_a_batch_goes_on_while_it_is_measured(
    regression, make_loader, make_trainer
) -> None:
    def save(trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint("within.ckpt")

    options: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": "root"}
    saving = LambdaCallback(on_train_batch_end=save)
    make_trainer(callbacks=saving, limit_train_batches=2, **options).fit(
        regression(), make_loader(4)
    )
    trainer = make_trainer(profiler="simple", **options)
    trainer.fit(regression(), make_loader(4), ckpt_path="within.ckpt")

    assert trainer.global_step == 4
    assert "commit" not in vars(trainer.checkpoint_callback)


def test_own_time_leaves_out_what_is_inside() -> None:
    profiler = SimpleProfiler()
    with profiler.profile("outer"):
        time.sleep(0.01)
        with profiler.profile("inner"):
            time.sleep(0.03)

    outer, inner = profiler.actions["outer"], profiler.actions["inner"]
    assert outer.total >= 0.04 and inner.own == inner.total >= 0.03
    assert outer.own == pytest.approx(outer.total - inner.total)


def test_a_short_report_has_means_and_totals_only() -> None:
    profiler = SimpleProfiler(extended=False)
    with profiler.profile("something"):
        pass

    header = profiler.summary().splitlines()[1]
    assert header.split("  ")[0] == "Action" and "Calls" not in header and "Total (s)" in header


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler])
def test_stopping_what_has_not_begun_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match="'x' was stopped"):
        kind().stop("x")


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler])
def test_reports_go_to_files_if_asked(
    kind: Any, regression, make_loader, make_trainer, capsys
) -> None:
    trainer = make_trainer(profiler=kind(dirpath="reports", filename="mine"))
    module = regression()
    trainer.fit(module, make_loader(3))
    trainer.validate(module, make_loader(3), verbose=False)

    assert sorted(p.name for p in Path("reports").iterdir()) == ["fit-mine.txt", "validate-mine.txt"]  # fmt: skip
    assert "training_step" in Path("reports/fit-mine.txt").read_text()
    validated = Path("reports/validate-mine.txt").read_text()
    assert "validation_step" in validated and "training_step" not in validated
    assert "profile" not in capsys.readouterr().out.lower()


def test_a_filename_alone_goes_into_the_run_folder(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(profiler=SimpleProfiler(filename="mine"), default_root_dir="root")
    trainer.fit(regression(), make_loader(3))

    assert Path("root/fit-mine.txt").exists()


def test_a_run_that_fails_is_reported_too(regression, make_loader, make_trainer, capsys) -> None:
    class Broken(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise ZeroDivisionError
            return self.loss(batch)

    for profiler in ("simple", "advanced"):
        with pytest.raises(ZeroDivisionError):
            make_trainer(profiler=profiler).fit(Broken(), make_loader(3))
        assert "training_step" in capsys.readouterr().out


def test_advanced_shows_functions(profiled, make_loader, make_trainer) -> None:
    profiler = AdvancedProfiler("reports", "deep", line_count_restriction=5, dump_stats=True)
    make_trainer(profiler=profiler).fit(profiled(), make_loader(3))

    text = Path("reports/fit-deep.txt").read_text()
    report = text.split("Profile of my part")[1].split("Profile of")[0]
    assert "time.sleep" in report
    assert "time.sleep" not in text.split("Profile of training_step")[1].split("Profile of")[0]
    assert Path("reports/fit-deep-training_step.prof").stat().st_size > 0
    import pstats

    stats = pstats.Stats("reports/fit-deep-my_part.prof")
    assert any("sleep" in function for _, _, function in stats.stats)  # type: ignore[attr-defined]


def test_pytorch_writes_a_trace_that_chrome_reads(
    profiled, make_loader, make_trainer, capsys
) -> None:
    trainer = make_trainer(profiler="pytorch", default_root_dir="root")
    trainer.fit(profiled(), make_loader(6), make_loader(2))

    trace = json.loads(Path("root/fit-report.pt.trace.json").read_text())
    names = [event["name"] for event in trace["traceEvents"] if "name" in event]
    assert names.count("training_step") == names.count("my part") == 3  # recorded batches
    for name in ("backward", "optimizer.step", "aten::addmm", "Linear: net.0"):
        assert name in names
    assert "aten::addmm" in capsys.readouterr().out


def test_a_run_on_the_cpu_of_a_machine_with_gpus_is_profiled_there(
    regression: Any, make_loader: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its report would be sorted by the time of a GPU that does nothing."""
    sorted_by: list[Any] = []
    table = EventList.table

    def noted(events: EventList, **how: Any) -> str:
        sorted_by.append(how["sort_by"])
        return table(events, **how)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(EventList, "table", noted)
    make_trainer(profiler=PyTorchProfiler(filename="report")).fit(regression(), make_loader())
    assert sorted_by == ["self_cpu_time_total"]


def test_pytorch_takes_its_own_schedule_and_report(regression, make_loader, make_trainer) -> None:
    from torch.profiler import schedule

    profiler = PyTorchProfiler(
        "reports",
        "torch",
        export_to_chrome=False,
        record_module_names=False,
        row_limit=3,
        sort_by_key="cpu_time_total",
        schedule=schedule(wait=0, warmup=1, active=1, repeat=1),
    )
    make_trainer(profiler=profiler).test(regression(), make_loader(4), verbose=False)

    assert [p.name for p in Path("reports").iterdir()] == ["test-torch.txt"]
    assert "test_step" in Path("reports/test-torch.txt").read_text()


def test_a_profiler_of_ones_own_sees_every_action(regression, make_loader, make_trainer) -> None:
    class Mine(Profiler):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def start(self, action_name: str) -> None:
            self.seen.append(action_name)

        def stop(self, action_name: str) -> None:
            assert action_name in self.seen

    mine = Mine()
    make_trainer(profiler=mine).fit(regression(), make_loader(1))

    steps = ["data", "transfer", "optimizer.zero_grad", "training_step", "logging.log", "backward"]
    begun = mine.seen.index("data")
    assert mine.seen[begun : begun + 6] == steps


def test_results_are_the_same_with_and_without(regression, make_loader, make_trainer) -> None:
    import torch

    ends = []
    for profiler in (None, "simple", "advanced", "pytorch"):
        torch.manual_seed(0)
        module = regression()
        trainer = make_trainer(profiler=profiler, max_epochs=2)
        trainer.fit(module, make_loader(6, shuffle=True), make_loader(2))
        ends.append(module.state_dict())
    for end in ends[1:]:
        assert all(torch.equal(end[name], ends[0][name]) for name in end)


def test_without_one_the_run_is_left_as_it_is(regression, make_loader, make_trainer) -> None:
    """Zero cost: no phase and no hook is wrapped, so there is nothing to pay."""
    seen: list[Run] = []

    class Note(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            run = trainer._live()
            seen.append(run)
            phases = {"begin_epoch", "end_epoch", "validate", "log_step", "send", "deliver"}
            assert not phases & vars(run).keys()
            assert "log" not in vars(run.metrics)
            assert run.hooks.on_train_batch_end[0].func == self.on_train_batch_end
            assert run.prepared.backward == run.precision.backward

    trainer = make_trainer(callbacks=Note())
    trainer.fit(regression(), make_loader(1))
    assert len(seen) == 1
    assert isinstance(trainer.profiler, PassThroughProfiler)


def test_afterwards_nothing_stays_wrapped(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(profiler=SimpleProfiler("reports"))
    trainer.fit(regression(), make_loader(1))

    assert not {"log", "take_epoch"} & vars(trainer.metrics).keys()


def test_an_unknown_name_is_refused(make_trainer) -> None:
    with pytest.raises(MisconfigurationException, match="'fast'"):
        make_trainer(profiler="fast")
