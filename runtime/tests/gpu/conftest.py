"""What needs a GPU: `make test-gpu`, which takes a stand-in of main memory where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
# What torch says of itself on a GPU, once, is no fault of a test.
SAID = (
    "ignore:Synchronization debug mode is a prototype",
    "ignore:Attempting to run cuBLAS, but there was no current CUDA context",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marks: list[Any] = [pytest.mark.filterwarnings(*SAID)]
    if not torch.cuda.is_available():
        reason = "needs a GPU, or a stand-in for one: `make test-gpu`"
        marks.append(pytest.mark.skip(reason=reason))
    for item in items:
        for mark in marks if HERE in item.path.parents else ():
            item.add_marker(mark)


def counters() -> Any:
    """Of the stand-in; None on a real GPU."""
    return getattr(sys.modules.get("stand_in"), "GPU", None)


@pytest.fixture
def stand_in() -> Any:
    """The counters of the stand-in; skips the test on a real GPU, which does not count these things."""
    return counters() or pytest.skip("a real GPU does not tell")


@pytest.fixture
def with_memory() -> Any:
    """`with_memory(n)`: from now on there are `n` bytes more than are in use."""
    gpu = counters()
    total = 0 if gpu else torch.cuda.get_device_properties(0).total_memory
    if not gpu:  # cuBLAS keeps memory for each thread that it is called in, 32 MB on large GPUs
        torch.nn.Linear(4, 4, device="cuda")(torch.ones(4, 4, device="cuda")).sum().backward()

    def allow(more: int) -> None:
        if gpu:
            gpu.stand_in_limit(gpu.stand_in_allocated() + more)
        else:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)  # fmt: skip

    yield allow
    if gpu:
        gpu.stand_in_limit(0)
    else:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def on_gpu(make_trainer: Any) -> Callable[..., Any]:
    """`make_trainer` on the GPU."""

    def make(**arguments: Any) -> Any:
        return make_trainer(**{"accelerator": "gpu", "devices": 1, **arguments})

    return make
