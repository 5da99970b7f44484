"""Whole processes against each other: imports, start-up, and the scaffolder's commands.

Each pair takes turns; the ratio is taken within a round and the median is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
TYPER_HELLO = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str) -> None:
    "Say hello."
app(["--help"])
"""
FIRST_STEP = [
    "--trainer.max_steps=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
]


@dataclass
class Pair:
    """Two commands, given as functions of a fresh folder, and the ratio we want."""

    name: str
    goal: str
    ours: Callable[[Path], list[str]]
    other: Callable[[Path], list[str]]
    prepare: Callable[[Path], Path] | None = None


def python(*words: object) -> list[str]:
    return [sys.executable, *map(str, words)]


def seconds(command: list[str], folder: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return taken


def project(folder: Path) -> Path:
    seconds(python("-m", "scaffold", "new", "my-exp", "--defaults", "--no-git"), folder)
    return folder / "my-exp"


def pairs() -> list[Pair]:
    return [
        Pair(
            "`import scaffold_runtime` and its Trainer, against `import torch`",
            "1.10",
            lambda folder: python("-c", "from scaffold_runtime import LightningModule, Trainer"),
            lambda folder: python("-c", "import torch"),
        ),
        Pair(
            "`python train.py` to its first step, against the plain script",
            "1.3",
            lambda folder: python("train.py", *FIRST_STEP),
            lambda folder: python(ROOT / "benchmarks" / "plain_digits.py"),
            project,
        ),
        Pair(
            "`scaffold --help`, against a bare Typer hello",
            "1.5",
            lambda folder: python("-m", "scaffold", "--help"),
            lambda folder: python("-c", TYPER_HELLO),
        ),
        Pair(
            "`scaffold list`, against a bare Typer hello",
            "",
            lambda folder: python("-m", "scaffold", "list"),
            lambda folder: python("-c", TYPER_HELLO),
            project,
        ),
    ]


def measure(pair: Pair, rounds: int) -> tuple[float, float]:
    """The median time of ours, and the median ratio."""
    ours: list[float] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = pair.prepare(folder) if pair.prepare else folder
        for number in range(rounds + 1):
            first, second = (
                seconds(pair.ours(folder), place),
                seconds(pair.other(folder), place),
            )
            if number:  # the first round warms the disk
                ours.append(first)
                ratios.append(first / second)
    return statistics.median(ours), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| | seconds | goal | ratio |\n|---|---|---|---|")
    for pair in pairs():
        taken, ratio = measure(pair, options.rounds)
        print(f"| {pair.name} | {taken:.2f} | {pair.goal} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
