"""Runs on two GPUs: what two processes on the CPU compute, nothing waited for, resumed exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("two_gpus.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs two GPUs"
    ),
]


def run(case: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What each process found; those of one call only are gone before they could say."""
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), json.dumps(case), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob("?.json"))]


@pytest.mark.parametrize(
    ("arguments", "sharded"),
    [
        ({"strategy": "ddp"}, False),
        ({"strategy": "ddp", "precision": "16-mixed", "accumulate_grad_batches": 2}, False),
        ({"strategy": "ddp_spawn", "gradient_clip_val": 0.5}, False),
        ({"strategy": "fsdp"}, False),
        ({"strategy": "fsdp", "precision": "bf16-true", "gradient_clip_val": 0.5}, False),
        ({"strategy": "fsdp", "precision": "16-mixed", "gradient_clip_val": 0.5}, False),
        ({}, True),
    ],
    ids=["ddp", "ddp-16-mixed", "ddp-spawn", "fsdp", "fsdp-bf16-true", "fsdp-16-mixed", "sharded"],
)
def test_a_resumed_run_is_the_same_bit_for_bit(
    arguments: Any, sharded: bool, tmp_path: Path
) -> None:
    """Also where the script that resumes seeds itself otherwise."""
    told = run({"trainer": arguments, "sharded": sharded}, tmp_path / "gpu")
    assert len(told) == (1 if arguments.get("strategy") == "ddp_spawn" else 2)
    for rank, found in enumerate(told):
        assert found["device"] == f"cuda:{rank}"
        assert found["again"] == found["metrics"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_compute_what_two_processes_do(strategy: str, tmp_path: Path) -> None:
    case = {"trainer": {"strategy": strategy}, "dropout": 0.0}
    there = run(case, tmp_path / "gpu")
    here = run({**case, "trainer": {"strategy": strategy, "accelerator": "cpu"}}, tmp_path / "cpu")
    for one, other in zip(there, here, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": "ddp"},
        {"strategy": "ddp", "precision": "16-mixed"},
        {"strategy": "fsdp", "precision": "16-mixed", "gradient_clip_val": 0.5},
    ],
    ids=["ddp", "ddp-16-mixed", "fsdp-16-mixed"],
)
def test_nothing_waits_for_the_device(arguments: Any, tmp_path: Path) -> None:
    run({"trainer": arguments, "watched": True}, tmp_path / "gpu")


@pytest.mark.parametrize("empty", [False, True])
def test_fsdp_never_has_all_of_a_model_on_a_device(empty: bool, tmp_path: Path) -> None:
    """The half of 32 MB that each keeps, and the layer that is being divided; messages may hold it once more."""
    for megabytes in run({"empty": empty}, tmp_path / "gpu"):
        assert 16 < megabytes < 28
