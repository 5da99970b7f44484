"""Overhead per step against the plain PyTorch loop, and Lightning where it is installed: `make bench`.

Everything runs in one process and takes turns. A figure is the time of a long run minus the time of a short
one, divided by the steps between them, so set-up does not count. Ratios are taken within a round and their
median is printed. One thread, CPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import models
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

Run = Callable[[int], None]
Batches = Callable[[int], DataLoader[Any]]
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- overhead: written by `make bench` -->", "<!-- end of overhead -->"


class Terminal(io.StringIO):
    """A terminal nobody looks at, so that progress bars draw as they would for a person."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


@dataclass
class Row:
    """One line of the table: the plain loop, ours and a peer's on the same work."""

    name: str
    goal: str
    plain: Run
    ours: Run
    peer: Run | None
    short: int = 200
    long: int = 1700
    times: dict[str, list[float]] = field(default_factory=dict)

    def contestants(self) -> dict[str, Run]:
        found = {"plain": self.plain, "ours": self.ours, "peer": self.peer}
        return {name: run for name, run in found.items() if run is not None}

    def measure(self) -> None:
        for name, run in self.contestants().items():
            taken = seconds(run, self.long) - seconds(run, self.short)
            self.times.setdefault(name, []).append(taken / (self.long - self.short))

    def ratio(self, name: str) -> str:
        if name not in self.times:
            return ""
        pairs = zip(self.times[name], self.times["plain"], strict=True)
        return f"{statistics.median(figure / base for figure, base in pairs):.2f}"

    def microseconds(self) -> str:
        return f"{statistics.median(self.times['plain']) * 1e6:.0f}"


def seconds(run: Run, steps: int) -> float:
    gc.collect()
    began = time.perf_counter()
    with redirect_stdout(Terminal()):
        run(steps)
    return time.perf_counter() - began


def plain(network: Callable[[], nn.Module], batches: Batches) -> Run:
    def run(steps: int) -> None:
        data = batches(steps)
        model = models.warmed(network(), data)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for inputs, labels in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()

    return run


def plain_validation(steps: int) -> None:
    model, data = models.mlp().eval(), models.vectors(steps)
    total = correct = torch.zeros(())
    with torch.no_grad():
        for inputs, labels in data:
            logits = model(inputs)
            total = total + F.cross_entropy(logits, labels) * len(labels)
            correct = correct + (logits.argmax(1) == labels).sum()


def module(framework: ModuleType, network: nn.Module, logs: int) -> Any:
    class Model(framework.LightningModule):  # type: ignore[misc, name-defined] # either framework
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            if logs == 1:
                self.log("loss", loss, prog_bar=True)
            for number in range(logs if logs > 1 else 0):
                self.log(f"loss{number}", loss, on_step=True, on_epoch=True, batch_size=32)
            return loss

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            logits = self.network(batch[0])
            self.log("val_loss", F.cross_entropy(logits, batch[1]))
            self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Model()


def trainer(framework: ModuleType, folder: str, **settings: Any) -> Any:
    loggers = importlib.import_module(f"{framework.__name__}.loggers")
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": loggers.CSVLogger(folder),
        "default_root_dir": folder,
        "enable_model_summary": False,
    }
    return framework.Trainer(**{**defaults, **settings})


def fitting(
    framework: ModuleType | None,
    network: Callable[[], nn.Module],
    batches: Batches,
    logs: int,
    **settings: Any,
) -> Run | None:
    if framework is None:
        return None

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            data = batches(steps)
            model = module(framework, models.warmed(network(), data), logs)
            trainer(framework, folder, **settings).fit(model, data)

    return run


def validating(framework: ModuleType | None) -> Run | None:
    if framework is None:
        return None

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model = module(framework, models.mlp(), 0)
            trainer(framework, folder).validate(model, models.vectors(steps), verbose=False)

    return run


def epoch_callbacks(framework: ModuleType | None) -> list[Any]:
    if framework is None:
        return []

    class Idle(framework.Callback):  # type: ignore[misc, name-defined] # either framework
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pass

    return [Idle() for _ in range(16)]


def table(ours: ModuleType, peer: ModuleType | None) -> list[Row]:
    off: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    tiny, small = (models.mlp, models.vectors), {"short": 20, "long": 120}
    loop = plain(*tiny)
    idle = {
        name: {**off, "callbacks": epoch_callbacks(f)} for name, f in (("o", ours), ("p", peer))
    }

    def both(*args: Any, **settings: Any) -> tuple[Any, Any]:
        return fitting(ours, *args, **settings), fitting(peer, *args, **settings)

    return [
        Row("tiny MLP, everything off", "1.03", loop, *both(*tiny, 0, **off)),
        Row("tiny MLP, defaults, `self.log(prog_bar)`", "1.10", loop, *both(*tiny, 1)),
        Row("tiny MLP, 20 `self.log` a step", "1.50", loop, *both(*tiny, 20)),
        Row(
            "tiny MLP, off, 16 idle callbacks",
            "1.03",
            loop,
            fitting(ours, *tiny, 0, **idle["o"]),
            fitting(peer, *tiny, 0, **idle["p"]),
        ),
        Row("validation, 2 metrics", "1.10", plain_validation, validating(ours), validating(peer)),
        Row(
            "small CNN, defaults",
            "1.01",
            plain(models.cnn, models.images),
            *both(models.cnn, models.images, 1),
            **small,
        ),
        Row(
            "small GPT, defaults",
            "1.01",
            plain(models.gpt, models.text),
            *both(models.gpt, models.text, 1),
            **small,
        ),
    ]


def markdown(rows: list[Row], rounds: int, version: str | None) -> str:
    peer = f"Lightning {version}" if version else "Lightning (not installed)"
    lines = [
        f"{date.today()}, {platform.machine()}, CPU, one thread, torch {torch.__version__}, "
        f"median of {rounds} rounds. Ratios to the plain loop.",
        "",
        f"| | plain loop, µs a step | goal | reached | {peer} |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [row.microseconds(), row.goal, row.ratio("ours"), row.ratio("peer")]
        lines.append(f"| {row.name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Put the table between its marks in docs/benchmarks.md."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN, 1)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # Lightning's notices would bury the table
    ours = importlib.import_module("scaffold_runtime")
    try:
        peer = importlib.import_module("lightning.pytorch")
    except ImportError:
        peer = None
    rows = table(ours, peer)
    for row in rows:
        for run in row.contestants().values():
            seconds(run, row.short)
    for number in range(options.rounds):
        print(f"\rround {number + 1}/{options.rounds}", end="", file=sys.stderr, flush=True)
        for row in rows:
            row.measure()
    print(file=sys.stderr)
    text = markdown(rows, options.rounds, getattr(peer, "__version__", None))
    print(text)
    if options.write:
        write_page(text)


if __name__ == "__main__":
    main()
