"""A run that was stopped and resumed ends bit-identical to one that never stopped: the matrix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from forking import forked
from resume_cells import FIT, MAKE

from scaffold_runtime.testing import Interrupter, Interruption, compare_runs, train

NEED_OTHERS = ("default", "often", "stopping", "uneven", "longer-limit")
CELLS = (
    [(data, "default") for data in MAKE]
    + [("plain", fit) for fit in FIT if fit not in NEED_OTHERS]
    + [("validation", fit) for fit in ("often", "stopping", "ema", "accumulate-4", "reload")]
    + [("workers", "accumulate-4"), ("workers", "limited"), ("stream", "accumulate-2")]
    + [("persistent", "often"), ("persistent", "reload"), ("persistent", "ema")]
    + [("several-max_size_cycle", "limited"), ("onecycle", "fp16"), ("onecycle", "accumulate-2")]
    + [("persistent-stream", "limited"), ("generator", "reload"), ("worker-stream", "limited")]
)  # fmt: skip
EVERYWHERE = [(data, "default") for data in ("plain", "stream", "sized-stream", "validation")]
STOPS = {
    "mid-epoch": [("on_train_batch_start", 3)],
    "edge": [("on_train_epoch_start", 2)],
    "after epoch 1": [("on_train_batch_start", 8)],
    "twice in an epoch": [("on_train_batch_start", 2), ("on_train_batch_start", 3)],
    "chain": [("on_train_batch_start", n) for n in (5, 2, 4)] + [("on_train_epoch_end", 1)],
}
IN_VALIDATION = {
    "in validation": [("on_validation_batch_start", 6), ("on_validation_batch_start", 4)],
    "before validation": [("on_validation_start", 2)],
}


# A save of the user's own, or at a signal, wherever it is made: (data, settings, hook, its calls).
WHEREVER = [
    ("validation", "often", "on_validation_batch_start", (3, 1, 4)),
    ("validation", "often", "on_validation_end", (2, 1)),
    ("validation", "often", "on_train_batch_end", (2, 3, 2)),
    ("validation", "ema", "on_validation_batch_end", (2, 3)),
    ("validation", "uneven", "on_validation_batch_start", (1, 6, 2)),
    ("validation", "stopping", "on_validation_epoch_end", (1, 2)),
    ("plateau", "default", "on_validation_batch_start", (4, 1)),
    ("plateau-step", "default", "on_train_batch_end", (5, 4)),
    ("persistent", "often", "on_validation_batch_start", (3, 6)),
    ("several-streams", "default", "on_train_batch_end", (5, 3)),
    ("stream", "accumulate-2", "on_train_batch_end", (3, 2, 4)),
    ("plain", "accumulate-4", "on_train_batch_end", (2, 1, 3)),
    ("plain", "fp16-accumulate", "on_train_batch_end", (1, 4)),
    ("plain", "top", "on_train_batch_end", (5, 1, 3)),
    ("plain", "default", "on_train_epoch_end", (1, 1)),
    ("stream", "longer-limit", "on_train_batch_end", (5, 5, 1)),
]


class SaveAndStop(Interrupter):
    """Save inside a hook, and stop there."""

    def __init__(self, hook: str, count: int) -> None:
        super().__init__(hook, count)
        interrupt = getattr(self, hook)

        def save(trainer: Any, *arguments: Any) -> None:
            try:
                interrupt(trainer, *arguments)
            except Interruption:
                trainer.save_checkpoint(Path(trainer.checkpoint_callback.dirpath) / "own.ckpt")
                raise

        setattr(self, hook, save)


def live(make: Any, folder: Any, stop: Any, arguments: dict[str, Any], kind: Any) -> Any:
    """One life, in a process of its own: nothing can survive in memory, workers least of all."""
    return forked(lambda: train(make, folder, 0, stop and kind(*stop), **arguments))


def run_cell(
    folder: Any, data: str, fit: str, stops: dict[str, Any], kind: Any = Interrupter
) -> None:
    make, arguments = MAKE[data], {"max_epochs": 3, "num_sanity_val_steps": 0, **FIT[fit]}
    reference, end = live(make, folder / "unbroken", None, arguments, kind)
    for name, places in stops.items():
        rows: list[Any] = []
        final = None
        for stop in [*places, None]:
            lived, final = live(make, folder / name, stop, arguments, kind)
            rows += lived
            if final is not None:
                break
        compare_runs(reference, end, rows, final)


@pytest.mark.parametrize(("data", "fit"), CELLS)
# A step of fp16 is skipped.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler:UserWarning")
@pytest.mark.timeout(120)
@pytest.mark.slow
def test_cell(tmp_path: Any, data: str, fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    chosen = STOPS if (data, fit) in EVERYWHERE else ("after epoch 1", "chain")
    stops = {name: STOPS[name] for name in chosen}
    if data in ("validation", "persistent", "plateau", "sized-stream") and fit == "default":
        stops |= IN_VALIDATION
    run_cell(tmp_path, data, fit, stops)


@pytest.mark.parametrize(("data", "fit", "hook", "calls"), WHEREVER)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler:UserWarning")
@pytest.mark.timeout(120)
@pytest.mark.slow
def test_saved_anywhere(
    tmp_path: Any, data: str, fit: str, hook: str, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at a commit: what is left of it is done after resuming."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    run_cell(tmp_path, data, fit, {hook: [(hook, count) for count in calls]}, SaveAndStop)
