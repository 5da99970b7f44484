"""Deliberate mistakes in saving and restoring: each must make the proof of exact resume fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resume_cells import FIT, MAKE

from scaffold_runtime.checkpoint import state as state_module
from scaffold_runtime.loggers.csv_logs import CSVLogger
from scaffold_runtime.metrics import Metrics
from scaffold_runtime.positions import Cursor, Part
from scaffold_runtime.precision import ScaledPrecision
from scaffold_runtime.progress import Progress
from scaffold_runtime.run import Run
from scaffold_runtime.testing import Interrupter, ResumeError, compare_runs, train

MUTANTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {}


def mutant(data: str = "plain", **arguments: Any) -> Callable[[Any], Any]:
    def register(change: Any) -> Any:
        MUTANTS[change.__name__] = data, arguments, change
        return change

    return register


def changed_state(monkeypatch: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """What is saved is changed on its way."""
    collect = state_module.collect

    def mutated(run: Any, weights_only: bool = False) -> dict[str, Any]:
        found = collect(run, weights_only)
        change(found)
        return found

    monkeypatch.setattr("scaffold_runtime.trainer.trainer.collect", mutated)


@mutant()
def random_numbers_restored_too_early(m: Any) -> None:
    start = Run.start_training

    def early(self: Run) -> Any:
        self.put_back_rng()
        return start(self)

    m.setattr(Run, "start_training", early)


@mutant()
def random_numbers_not_restored(m: Any) -> None:
    m.setattr(Run, "put_back_rng", lambda self: None)


@mutant("step")
def scheduler_saved_before_its_step(m: Any) -> None:
    def earlier(found: dict[str, Any]) -> None:
        found["lr_schedulers"] = [
            {**s, "last_epoch": s["last_epoch"] - 1} for s in found["lr_schedulers"]
        ]

    changed_state(m, earlier)


@mutant()
def batch_counted_when_fetched(m: Any) -> None:
    kept = Progress.state_dict
    ahead = lambda self: {**kept(self), "batch": self.batch + (self.batch > 0)}  # noqa: E731
    m.setattr(Progress, "state_dict", ahead)


@mutant()
def batch_not_counted(m: Any) -> None:
    kept = Progress.state_dict
    m.setattr(Progress, "state_dict", lambda self: {**kept(self), "batch": 0})


@mutant()
def optimizer_state_forgotten(m: Any) -> None:
    changed_state(m, lambda found: [o["state"].clear() for o in found["optimizer_states"]])


@mutant(precision="16-mixed")
def scaler_forgotten(m: Any) -> None:
    m.setattr(ScaledPrecision, "load_state_dict", lambda self, state: None)


@mutant()
def sampler_begins_anew(m: Any) -> None:
    position = Cursor.position
    m.setattr(Cursor, "position", lambda self, skip, again: position(self, skip, None))


@mutant()
def skips_nothing(m: Any) -> None:
    position = Cursor.position
    m.setattr(Cursor, "position", lambda self, skip, again: position(self, 0, again))


@mutant("workers")
def workers_seeded_by_chance(m: Any) -> None:
    load = Part.load_state_dict
    m.setattr(
        Part,
        "load_state_dict",
        lambda self, state, mid_epoch: load(self, {**state, "seed": 1}, mid_epoch),
    )


@mutant("stream")
def stream_position_forgotten(m: Any) -> None:
    m.setattr(Part, "_load_inner", lambda self, state: False)


@mutant()
def buffers_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found["transient"]["buffers"].clear())


@mutant()
def torchmetrics_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found["transient"]["metrics"].clear())


@mutant()
def running_means_forgotten(m: Any) -> None:
    m.setattr(Metrics, "load_state_dict", lambda self, *state: None)


@mutant()
def modes_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found["transient"]["evaluating"].clear())


@mutant()
def frozen_parts_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found["transient"]["frozen"].clear())


@mutant()
def rows_logged_twice(m: Any) -> None:
    m.setattr(CSVLogger, "load_state_dict", lambda self, state: None)


@mutant("validation", max_epochs=6, callbacks=FIT["stopping"]["callbacks"])
def callbacks_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found["callbacks"].clear())


@mutant(max_epochs=3, callbacks=FIT["ema"]["callbacks"])
def average_forgotten(m: Any) -> None:
    changed_state(m, lambda found: found.pop("current_model_state"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def proof(place: Path, data: str, arguments: dict[str, Any], mutate: Callable[[], None]) -> None:
    """Stopped in the first epoch and in the third, where all there is to forget has happened."""
    settings = {"max_epochs": 3, "num_sanity_val_steps": 0, **arguments}
    rows, end = train(MAKE[data], place / "unbroken", 0, **settings)
    mutate()
    lived: list[Any] = []
    final = None
    for count in (4, 8, None):
        stop = Interrupter("on_train_batch_start", count) if count else None
        more, final = train(MAKE[data], place / "killed", 0, stop, **settings)
        lived += more
    compare_runs(rows, end, lived, final)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler:UserWarning")
def test_each_mistake_is_found(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, arguments, change = MUTANTS[name]
    with pytest.raises((ResumeError, UserWarning)):
        proof(tmp_path, data, arguments, lambda: change(monkeypatch))


@pytest.mark.parametrize("data", ["plain", "stream", "step"])
def test_without_a_mistake_nothing_is_found(tmp_path: Path, data: str) -> None:
    proof(tmp_path, data, {}, lambda: None)
