"""Rows of two processes: what a step costs beside DDP's own, in time and in messages, and how soon it begins."""

from __future__ import annotations

import json
from pathlib import Path

from processes import execute, python, scratch, timed
from table import Contestant, Row, installed

SCRIPT = Path(__file__).parent / "two_ranks.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 500


def of_a_step(kind: str, what: str) -> Contestant:
    """One figure of a training under torchrun."""

    def contestant() -> float:
        printed = execute(python(*TORCHRUN, SCRIPT, kind, STEPS), scratch())
        return float(json.loads(printed.splitlines()[-1])[what])

    return contestant


def rows() -> list[Row]:
    kinds = {"base": "plain", "ours": "scaffold_runtime"}
    if installed("Lightning"):
        kinds["Lightning"] = "lightning.pytorch"
    steps, messages = (
        {name: of_a_step(kind, what) for name, kind in kinds.items()}
        for what in ("seconds", "messages")
    )
    start = {name: timed(SCRIPT, kind, 1) for name, kind in kinds.items() if name != "base"}
    start = {"base": timed(*TORCHRUN, SCRIPT, "plain", 1), **start}
    return [
        Row("ddp", "tiny MLP, two processes, against plain DDP", 1.05, "µs", steps, rounds=5),
        Row("messages", "messages between two processes a step", 1.0, "", messages, rounds=1, peer_rounds=1),
        Row("ddp-start", "`ddp` to the first step, against torchrun with the plain loop", None, "s", start, rounds=5),
    ]  # fmt: skip
