"""Test that a module and its data resume exactly: interrupt training anywhere, resume, compare every bit.

def make():
    return MyModule(), MyData()

def test_resume(tmp_path):
    check_resume(make, tmp_path, max_epochs=2, limit_train_batches=8)
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from scaffold_runtime.callbacks.model_checkpoint import ModelCheckpoint
from scaffold_runtime.checkpoint.state import collect
from scaffold_runtime.checkpoint.transient import transient
from scaffold_runtime.compare import difference, digest
from scaffold_runtime.hooks import Callback
from scaffold_runtime.loggers.csv_logs import CSVLogger
from scaffold_runtime.module import LightningModule
from scaffold_runtime.seed import rng_state, seed_everything
from scaffold_runtime.trainer import Trainer

WALL_CLOCK = ("time_elapsed",)  # state that differs between any two runs


class ResumeError(AssertionError):
    """A resumed run differs from the uninterrupted one; the message names the first difference."""


class Interruption(Exception):  # noqa: N818 - not an error
    """Raised during training to simulate a power cut."""


class Trace(Callback):
    """One row per training batch: hashes of the batch, the loss, random state, weights and optimizers.

    Args:
        file: a file to which rows are appended as JSON lines, for processes that are killed.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._file = file

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        row = {
            "epoch": trainer.current_epoch,
            "batch": batch_idx,
            "data": digest(batch),
            "loss": digest(outputs),
            "lr": [group["lr"] for o in trainer.optimizers for group in o.param_groups],
            "random numbers": digest(rng_state()),
            "weights": digest([pl_module.state_dict(), transient(pl_module)]),
            "optimizers": digest([o.state_dict() for o in trainer.optimizers]),
            "schedulers": digest([c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]),
            "step": trainer.global_step,
        }
        self.rows.append(row)
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class Interrupter(Callback):
    """Raise `Interruption` when `hook` is called for the `count`-th time."""

    def __init__(self, hook: str, count: int) -> None:
        def interrupt(*args: Any) -> None:
            nonlocal count
            count -= 1
            if count == 0:
                raise Interruption(hook)

        setattr(self, hook, interrupt)


def check_resume(
    make: Callable[[], tuple[LightningModule, Any]],
    folder: str | os.PathLike[str],
    *,
    trials: int = 3,
    seed: int = 0,
    **arguments: Any,
) -> None:
    """Train once uninterrupted, then `trials` times with interruptions at random batches, and compare every step
    and the final state.

    Args:
        make: creates a new module, and its data module or training loader.
        folder: where checkpoints and logs go.
        trials: number of runs to interrupt, each at one to three random batches.
        seed: seeds the interruptions and each run.
        arguments: of the Trainer; keep the run short.

    Raises:
        ResumeError: naming the first step, and the part of the state, that differs.
    """
    choose = random.Random(seed)
    reference, end = train(make, Path(folder) / "unbroken", seed, **arguments)
    for trial in range(trials):
        place, stops = Path(folder) / f"interrupted-{trial}", choose.randint(1, 3)
        rows: list[dict[str, Any]] = []
        counts = (choose.randint(1, len(reference)) for _ in range(stops))
        for count in chain(counts, [0]):  # the last one does not interrupt
            stop = Interrupter("on_train_batch_start", count)
            lived, final = train(make, place, seed, stop, **arguments)
            rows += lived
            if final is not None:
                break
        compare_runs(reference, end, rows, final)


def train(
    make: Callable[[], tuple[LightningModule, Any]],
    folder: Path,
    seed: int,
    stop: Callback | None = None,
    callbacks: Callable[[], Iterable[Callback]] = tuple,
    trace_file: Path | None = None,
    **arguments: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Start or resume a run that saves after every step: returns its trace, and its final state unless interrupted."""
    seed_everything(seed)
    model, data = make()
    trace = Trace(trace_file)
    extra = [*callbacks(), trace, *([stop] if stop is not None else [])]
    trainer = _trainer(folder, extra, arguments)
    resume = "last" if any(folder.rglob("*.ckpt")) else None
    try:
        trainer.fit(model, data, ckpt_path=resume)
    except Interruption:
        return trace.rows, None
    return trace.rows, end_of(trainer, folder)


def _trainer(folder: Path, extra: list[Callback], arguments: dict[str, Any]) -> Trainer:
    saves = any(isinstance(callback, ModelCheckpoint) for callback in extra)
    each = [] if saves else [ModelCheckpoint(filename="{epoch}-{step}", every_n_train_steps=1)]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    logger = CSVLogger(folder, name="")
    return Trainer(**{**quiet, "logger": logger, **arguments, "callbacks": [*extra, *each]})


def end_of(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """All state at the end of a run, and its logged values, without wall-clock times and paths."""
    run = trainer._last_run
    assert run is not None
    state = collect(run)
    log = Path(trainer.log_dir, "metrics.csv")
    state["logged"] = log.read_text(encoding="utf-8") if log.exists() else None
    places = (trainer.log_dir, str(folder))
    cleaned = _cleaned(state, (*map(os.path.realpath, places), *places))
    assert isinstance(cleaned, dict)
    return cleaned


def _cleaned(value: Any, places: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {
            _cleaned(k, places): _cleaned(v, places)
            for k, v in value.items()
            if k not in WALL_CLOCK
        }
    if isinstance(value, (list, tuple)):
        return [_cleaned(item, places) for item in value]
    if isinstance(value, str):
        for place in places:
            value = value.replace(place, "<folder>")
    return value.clone() if isinstance(value, torch.Tensor) else value


def compare_runs(
    reference: list[dict[str, Any]],
    end: dict[str, Any] | None,
    rows: list[dict[str, Any]],
    final: dict[str, Any] | None,
) -> None:
    """Compare what an interrupted run did, over all its resumptions, to the uninterrupted run.

    Raises:
        ResumeError: naming the first difference.
    """
    known = {(row["epoch"], row["batch"]): row for row in reference}
    for row in rows:
        expected = known.get((row["epoch"], row["batch"]))
        where = f"epoch {row['epoch']}, batch {row['batch']}"
        if expected is None:
            raise ResumeError(f"{where}: the run that never stopped has no such batch.")
        for name, value in row.items():
            if value != expected[name]:
                raise ResumeError(
                    f"{where}: {name} differs after resuming ({value}; without a stop {expected[name]})."
                )
    if missing := known.keys() - {(row["epoch"], row["batch"]) for row in rows}:
        epoch, batch = min(missing)
        raise ResumeError(f"epoch {epoch}, batch {batch} was never trained on after resuming.")
    found = difference(end, final)
    if found is not None:
        raise ResumeError(f"every step is the same, but at the end {found}.")
