"""Nothing grows with the number of steps, names or fits but what a run has written. Counted, never timed."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime import Callback, Trainer
from scaffold_runtime.loggers import CSVLogger, TensorBoardLogger


class Sizes(Callback):
    """Python memory and objects after these numbers of steps."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.memory, self.objects = steps, [], []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step in self.steps:
            gc.collect()
            self.memory.append(tracemalloc.get_traced_memory()[0])
            self.objects.append(len(gc.get_objects()))


@pytest.fixture
def traced() -> Any:
    gc.collect()
    gc.freeze()  # what other tests left here is neither counted nor searched, again and again
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.unfreeze()


def chatty(regression: Any, names: int) -> Any:
    """A module that logs `names` values a step, by step and by epoch."""

    class Chatty(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            for number in range(names):
                self.log(f"loss{number}", loss, on_step=True, on_epoch=True, batch_size=4)
            return loss

    return Chatty()


@pytest.mark.slow
@pytest.mark.parametrize("names", [1, 200])
def test_memory_is_flat_over_steps(
    names: int, regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path, traced: Any
) -> None:
    sizes = Sizes(200, 1200)
    trainer = make_trainer(
        logger=CSVLogger(tmp_path), enable_checkpointing=True, default_root_dir=tmp_path,
        callbacks=[sizes], log_every_n_steps=10,
    )  # fmt: skip
    trainer.fit(chatty(regression, names), make_loader(1200))
    assert abs(sizes.objects[1] - sizes.objects[0]) < 50
    assert sizes.memory[1] - sizes.memory[0] < 64 * 1024 + 100 * names
    assert sum(len(entries) for entries in trainer.metrics.scopes.values()) == names


def test_work_per_step_does_not_depend_on_steps_taken(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Calls of Python functions, ours and torch's, in a step: as many in the 1900th as in the 100th."""
    calls = {"now": 0}
    counts: list[int] = []

    class Count(Callback):
        def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
            counts.append(calls["now"])

    def note(frame: Any, event: str, argument: Any) -> None:
        calls["now"] += event == "call"

    trainer = make_trainer(callbacks=[Count()], log_every_n_steps=10)
    sys.setprofile(note)
    try:
        trainer.fit(chatty(regression, 5), make_loader(2000))
    finally:
        sys.setprofile(None)
    steps = [b - a for a, b in pairwise(counts)]
    assert steps[100:200] == steps[1800:1900]


@pytest.mark.slow
def test_fifty_fits_leave_nothing_behind(
    regression: Any, make_loader: Any, tmp_path: Path, traced: Any
) -> None:
    """Trainer, module and run of one fit are gone at the next; what torch keeps is made by the first ten."""
    memory, objects = [], []
    for number in range(50):
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, default_root_dir=tmp_path / str(number),
            logger=CSVLogger(tmp_path / str(number)), enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(regression(), make_loader(3), make_loader(2))
        del trainer
        gc.collect()
        memory.append(tracemalloc.get_traced_memory()[0])
        objects.append(len(gc.get_objects()))
    assert abs(objects[49] - objects[9]) < 50, objects
    assert memory[49] - memory[9] < 64 * 1024, memory


def test_a_trainer_is_freed_with_its_run(regression: Any, make_loader: Any, make_trainer: Any) -> None:  # fmt: skip
    trainer, module = make_trainer(), regression()
    trainer.fit(module, make_loader(2))
    gone = weakref.ref(trainer), weakref.ref(module)
    del trainer, module
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_logger_files_are_appended(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    """The same file, which begins with what it held before, at every step that logs; a CSV file gets a new header
    line, and is written anew, when a name appears for the first time."""
    seen: dict[Path, tuple[int, bytes]] = {}
    grown: dict[Path, int] = {}

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            for logger in trainer.loggers:
                logger.save()
            files = [*tmp_path.rglob("metrics.csv"), *tmp_path.rglob("events.*")]
            for file in files:
                inode, text = file.stat().st_ino, file.read_bytes()
                if file in seen:
                    assert (inode, text[: len(seen[file][1])]) == seen[file]
                    grown[file] = grown.get(file, 0) + (len(text) > len(seen[file][1]))
                seen[file] = inode, text

    module = chatty(regression, 3)
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb")]
    make_trainer(logger=loggers, callbacks=[Look()]).fit(module, make_loader(30))
    assert len(grown) == 2 and all(times >= 10 for times in grown.values())
    assert torch.isfinite(module.net[0].weight).all()
