"""A run that was stopped and resumed ends bit-identical to one that never stopped: the matrix."""

from __future__ import annotations

import os
from typing import Any

import pytest
from forking import forked
from resume_cells import FIT, MAKE

from scaffold_runtime.testing import Interrupter, compare_runs, train

CELLS = (
    [(data, "default") for data in MAKE]
    + [("plain", fit) for fit in FIT if fit not in ("default", "often", "stopping")]
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


def live(make: Any, folder: Any, stop: Any, arguments: dict[str, Any]) -> Any:
    """One life, in a process of its own: nothing can survive in memory, workers least of all."""
    return forked(lambda: train(make, folder, 0, stop and Interrupter(*stop), **arguments))


def run_cell(folder: Any, data: str, fit: str, stops: dict[str, Any]) -> None:
    make, arguments = MAKE[data], {"max_epochs": 3, "num_sanity_val_steps": 0, **FIT[fit]}
    reference, end = live(make, folder / "unbroken", None, arguments)
    for name, places in stops.items():
        rows: list[Any] = []
        final = None
        for stop in [*places, None]:
            lived, final = live(make, folder / name, stop, arguments)
            rows += lived
            if final is not None:
                break
        compare_runs(reference, end, rows, final)


@pytest.mark.parametrize(("data", "fit"), CELLS)
@pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler:UserWarning"
)  # fp16 skips a step
@pytest.mark.timeout(120)
@pytest.mark.slow
def test_cell(tmp_path: Any, data: str, fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    chosen = STOPS if (data, fit) in EVERYWHERE else ("after epoch 1", "chain")
    stops = {name: STOPS[name] for name in chosen}
    if data in ("validation", "persistent", "plateau", "sized-stream") and fit == "default":
        stops |= IN_VALIDATION
    run_cell(tmp_path, data, fit, stops)
