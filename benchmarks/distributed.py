"""Rows of two processes: what a step costs beside DDP's own, in time and in messages, and how soon it begins."""

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
    """What a training of two processes says: the plain loop's under torchrun, ours and Lightning's start their own."""
    command = python(*(TORCHRUN if kind == "plain" else ()), SCRIPT, kind, STEPS)
    began = time.time()
    said: Figures = json.loads(execute(command, scratch()).splitlines()[-1])
    return {**said, "start": said["began"] - began}


def reading(launched: Contestants, what: str) -> Mapping[str, Contestant]:
    """One figure of each launch."""

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
