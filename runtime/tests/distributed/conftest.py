"""Two processes by fork, which cost a tenth of a second, with a short timeout and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime import Trainer
from scaffold_runtime.strategies import DDPStrategy
from scaffold_runtime.strategies.launch import places, run_in_processes

SECONDS = 20


@pytest.fixture(autouse=True)
def nobody_left_behind() -> Iterator[None]:
    """Whatever happened, the processes a test started have ended."""
    yield
    until = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.fixture
def ddp(make_trainer: Any) -> Callable[..., Trainer]:
    """`ddp(**arguments)`: a Trainer on two forked processes; `options` are the strategy's."""
    return partial(forked, make_trainer, DDPStrategy)


@pytest.fixture
def fsdp(make_trainer: Any) -> Callable[..., Trainer]:
    """The same under FSDP."""
    from scaffold_runtime.strategies import FSDPStrategy

    return partial(forked, make_trainer, FSDPStrategy)


@pytest.fixture
def adam(regression: Any) -> Any:
    """A model whose optimizer has a state of its own for each parameter."""

    class Adam(regression):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.05)

    return Adam


def forked(
    make_trainer: Any,
    kind: Any,
    processes: int = 2,
    options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    strategy = kind(start_method="fork", timeout=timedelta(seconds=SECONDS), **(options or {}))
    defaults = {"devices": processes, "strategy": strategy, "num_sanity_val_steps": 0}
    trainer: Trainer = make_trainer(**{**defaults, **arguments})
    return trainer


@pytest.fixture
def together() -> Callable[..., Any]:
    """`together(call)`: run it in two processes joined by gloo, and give what the first returned."""

    def run(call: Callable[[], Any], processes: int = 2) -> Any:
        def joined() -> Any:
            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
            return call()

        return run_in_processes("fork", places(processes, 1, 0), joined, timedelta(seconds=SECONDS))

    return run


def note(folder: Path, name: str, value: Any) -> None:
    """Leave a value of this process for the test to read."""
    torch.save(value, folder / f"{name}-{os.environ['RANK']}.pt")


def notes(folder: Path, name: str, processes: int = 2) -> list[Any]:
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(processes)]
