"""Overhead per training step against the plain PyTorch loop, on a tiny model: `make bench`.

Everything runs in one process and takes turns. A figure is the time of a long run minus the time of a short
one, divided by the steps between them, so set-up does not count; the ratio is taken within a round and the
median of the rounds is printed. One thread, CPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SHORT, LONG = 200, 1700
BATCH, WIDTH = 32, 64
Row = Callable[[int], None]


class Terminal(io.StringIO):
    """A terminal nobody looks at, so that progress bars draw as they would for a person."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def batches(steps: int) -> DataLoader[Any]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(BATCH * 64, WIDTH), torch.randint(0, 10, (BATCH * 64,)))
    index = torch.arange(BATCH * steps) % len(data)
    return DataLoader(data, batch_sampler=index.view(steps, BATCH).tolist())


def plain(steps: int) -> None:
    model, loader = network(), batches(steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()


def module(framework: ModuleType, logs: int) -> Any:
    class Tiny(framework.LightningModule):  # type: ignore[misc, name-defined] # either framework
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            if logs == 1:
                self.log("loss", loss, prog_bar=True)
            elif logs:
                for number in range(logs):
                    self.log(f"loss{number}", loss, on_step=True, on_epoch=True, batch_size=BATCH)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Tiny()


def bare(framework: ModuleType) -> Row:
    def run(steps: int) -> None:
        trainer = framework.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module(framework, 0), batches(steps))

    return run


def defaults(framework: ModuleType, logs: int) -> Row:
    loggers = importlib.import_module(f"{framework.__name__}.loggers")

    def run(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = framework.Trainer(
                max_epochs=1,
                accelerator="cpu",
                devices=1,
                logger=loggers.CSVLogger(folder),
                default_root_dir=folder,
                enable_model_summary=False,
            )
            trainer.fit(module(framework, logs), batches(steps))

    return run


def rows(peers: bool) -> dict[str, Row]:
    import scaffold_runtime

    found: dict[str, Row] = {
        "plain loop": plain,
        "ours, everything off": bare(scaffold_runtime),
        "ours, defaults, self.log(prog_bar)": defaults(scaffold_runtime, 1),
        "ours, 20 self.log a step": defaults(scaffold_runtime, 20),
    }
    if peers:
        lightning = importlib.import_module("lightning.pytorch")
        found |= {
            "Lightning, everything off": bare(lightning),
            "Lightning, defaults, self.log(prog_bar)": defaults(lightning, 1),
            "Lightning, 20 self.log a step": defaults(lightning, 20),
        }
    return found


def seconds(run: Row, steps: int) -> float:
    gc.collect()
    began = time.perf_counter()
    with redirect_stdout(Terminal()):
        run(steps)
    return time.perf_counter() - began


def per_step(run: Row) -> float:
    return (seconds(run, LONG) - seconds(run, SHORT)) / (LONG - SHORT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # Lightning's notices would bury the table
    try:
        lightning = importlib.import_module("lightning")
    except ImportError:
        lightning = None
    table = rows(peers=lightning is not None)
    times: dict[str, list[float]] = {name: [] for name in table}
    for run in table.values():
        seconds(run, SHORT)
    for round_number in range(options.rounds):
        print(f"round {round_number + 1}/{options.rounds}", end="\r", file=sys.stderr, flush=True)
        for name, run in table.items():
            times[name].append(per_step(run))
    width = max(map(len, table))
    print(f"torch {torch.__version__}, one thread, median of {options.rounds} rounds")
    print(f"{'':{width}}  {'us/step':>8}  {'ratio':>6}")
    for name, figures in times.items():
        ratios = [figure / base for figure, base in zip(figures, times["plain loop"], strict=True)]
        print(
            f"{name:{width}}  {statistics.median(figures) * 1e6:8.1f}  {statistics.median(ratios):6.2f}"
        )
    if lightning is None:
        print("Lightning is not installed here: `make bench` makes an environment that has it.")


if __name__ == "__main__":
    main()
