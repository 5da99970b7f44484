"""Rows of two processes: time and messages per step, against plain DDP, and time to the first step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from processes import execute, python, scratch
from table import Contestant, Row, in_turn, installed

SCRIPT = Path(__file__).parent / "two_ranks.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 500
Figures = dict[str, float]
Contestants = Mapping[str, Callable[[], Callable[[], Figures]]]


def launch(kind: str) -> Figures:
    """The figures of a training in two processes: the plain loop uses torchrun, the others launch themselves."""
    command = python(*(TORCHRUN if kind == "plain" else ()), SCRIPT, kind, STEPS)
    began = time.time()
    figures: Figures = json.loads(execute(command, scratch()).splitlines()[-1])
    return {**figures, "start": figures["began"] - began}


def reading(launched: Contestants, what: str) -> Mapping[str, Contestant]:
    """Contestants that read one of the figures of each launch."""

    def of(launches: Callable[[], Figures]) -> Contestant:
        return lambda: launches()[what]

    return {name: of(reader()) for name, reader in launched.items()}


def rows() -> list[Row]:
    kinds = {"base": "plain", "ours": "scaffold_runtime"}
    if installed("Lightning"):
        kinds["Lightning"] = "lightning.pytorch"
    launched = {name: in_turn(partial(launch, kind)) for name, kind in kinds.items()}
    few: Any = {"rounds": 5, "peer_rounds": 1, "warm_up": False}
    return [
        Row("ddp", "tiny MLP, two processes, against plain DDP", 1.05, "µs", reading(launched, "seconds"), **few),
        Row("messages", "messages between two processes a step", 1.0, "", reading(launched, "messages"), **few),
        Row("ddp-start", "`ddp` to the first step, against torchrun with the plain loop", None, "s",
            reading(launched, "start"), **few),
    ]  # fmt: skip
