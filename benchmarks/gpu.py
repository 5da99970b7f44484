"""Time per step on a GPU: `make bench-gpu`, `make bench-gpu ROWS=small`.

First a fit runs under `torch.cuda.set_sync_debug_mode("error")`, where waiting for the device between two log
steps is an error. Each row is printed as soon as it is done. Without a GPU the exit code is 2; `--device cpu`
tests the script itself, with tiny models.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import models
import torch
from models import Watch
from steps import OFF, Terminal
from table import Contestant, Row, markdown, measure
from torch import Tensor, nn
from torch.nn import functional as F

from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.callbacks import EarlyStopping, LearningRateMonitor
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.utilities import move_data_to_device

LOG_EVERY = 50


@dataclass(frozen=True)
class Work:
    """One training: the plain loop and the engine get the same."""

    device: torch.device
    network: Callable[[], nn.Module]
    data: Callable[[int], Watch]
    steps: int
    precision: str = "32-true"
    compiled: str = ""  # mode of torch.compile; empty: not compiled
    side_stream: bool = True  # whether the engine copies batches on a separate CUDA stream

    def model(self) -> nn.Module:
        with self.device:
            model = self.network()
        if not self.compiled:
            return model
        torch.compiler.reset()  # else torch stops compiling this code after eight models
        return torch.compile(model, mode=self.compiled)  # type: ignore[return-value] # compiled modules are modules

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def large_gpt() -> nn.Module:
    """A GPT of about 100 million weights."""
    torch.manual_seed(0)
    blocks = [models.Attention(768, 12) for _ in range(12)]
    head = nn.Linear(64 * 768, models.CLASSES)
    return nn.Sequential(nn.Embedding(256, 768), *blocks, nn.Flatten(), head)


def finished(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def to(batch: list[Tensor], device: torch.device) -> list[Tensor]:
    return [part.to(device, non_blocking=True) for part in batch]


def plain(work: Work, data: Watch) -> None:
    model = work.model()
    optimizer = work.optimizer(model)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(work.precision)
    scaler = torch.amp.GradScaler(work.device.type, enabled=half is torch.float16)
    forward: Any = torch.autocast(work.device.type, dtype=half) if half else nullcontext()
    for batch in data.loader:
        inputs, labels = to(batch, work.device)
        optimizer.zero_grad()
        with forward:
            loss = F.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


class Module(LightningModule):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.network, self.work = work.model(), work

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.work.optimizer(self.network)


class OneStream(Module):
    """Copies batches on the compute stream, for comparison with the side stream."""

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return move_data_to_device(batch, device)


def ours(work: Work, data: Watch, **settings: Any) -> None:
    settings = {
        **OFF,
        "max_epochs": 1,
        "log_every_n_steps": LOG_EVERY,
        **settings,
    }
    where = "gpu" if work.device.type == "cuda" else "cpu"
    trainer = Trainer(
        accelerator=where,
        devices=1,
        precision=work.precision,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(Module(work) if work.side_stream else OneStream(work), data.loader)


def per_step(run: Callable[[Work, Watch], None], work: Work) -> Contestant:
    """Seconds per step, from the 21st batch to the last; the device is synchronized at both."""

    def contestant() -> float:
        data = work.data(work.steps)
        data.settle = lambda: finished(work.device)
        with redirect_stdout(Terminal()), redirect_stderr(Terminal()):
            run(work, data)
        finished(work.device)
        return data.seconds_per_step()

    return contestant


class NoWaiting(Callback):
    """Makes waiting for the device an error, from the fourth batch to the end of the epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # fmt: skip
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 2 else "default")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def check_no_waiting(device: torch.device, steps: int) -> None:
    """One fit per precision with all features on; fails if anything waits for the device."""
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        work = Work(device, models.mlp, models.vectors, steps, precision)
        watch = [NoWaiting()] if device.type == "cuda" else []
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(Terminal()),
            redirect_stderr(Terminal()),
        ):
            ours(
                    work, work.data(steps), logger=CSVLogger(folder), enable_progress_bar=True, gradient_clip_val=1.0,
                    callbacks=[*watch, EarlyStopping("loss"), LearningRateMonitor()], default_root_dir=folder,
                )  # fmt: skip
        print(f"no waiting for the device: {precision} holds")


def rows(device: torch.device, tiny: bool) -> list[Row]:
    small = (models.mlp, models.vectors, 40 if tiny else 1020)
    large = small if tiny else (large_gpt, models.text, 120)
    modes = {
        "": "",
        "default": ", compiled",
        "reduce-overhead": ", CUDA graphs (`reduce-overhead`)",
    }
    found: list[tuple[str, str, float | None, Work]] = []
    for size, (network, data, steps) in {"small": small, "large": large}.items():
        goal = 1.10 if size == "small" else 1.01
        for precision in ("32-true", "bf16-mixed", "16-mixed"):
            for mode, words in (
                modes.items() if precision != "16-mixed" and not tiny else [("", "")]
            ):
                key = "-".join(filter(None, (size, precision.split("-")[0], mode)))
                work = Work(device, network, data, steps, precision, mode)
                found.append((key, f"{size} model, {precision}{words}", goal, work))
    # copying these batches takes as long as training on them
    heavy = models.vectors if tiny else models.heavy
    bound = partial(
        Work, device, models.mlp if tiny else models.cnn, heavy, small[2] if tiny else 120
    )
    name = "loader-bound: large images from pinned memory"
    found.append(("loader", name, 1.0, bound()))
    found.append(("loader-one-stream", f"{name}, no side stream", None, bound(side_stream=False)))
    found.sort(key=lambda row: bool(row[-1].compiled))  # the slowest last
    return [
        Row(
            key,
            name,
            goal,
            "µs",
            {"base": per_step(plain, work), "ours": per_step(ours, work)},
            rounds=1 if work.compiled else 3,  # each round compiles again
        )
        for key, name, goal, work in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time per step on a GPU.")
    parser.add_argument(
        "rows", nargs="*", help="keys of rows, or how they begin; all if none is given"
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "There is no GPU here that torch can use: nothing was measured. `--device cpu` tries the script."
        )
        raise SystemExit(2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    device = torch.device(options.device)
    tiny = device.type == "cpu"
    begins = tuple(options.rows) or ("",)
    chosen = [row for row in rows(device, tiny) if row.key.startswith(begins)]
    if not chosen:
        raise SystemExit(
            f"no such row. There are: {', '.join(row.key for row in rows(device, tiny))}."
        )
    check_no_waiting(device, 30 if tiny else 200)
    for row in chosen:
        row.rounds = options.rounds or row.rounds
    measure(chosen, done=lambda row: print(f"{row.name}: {row.reached()}", flush=True))
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, a trial of the script"
    print(
        f"\n{date.today()}, {kind}, torch {torch.__version__}, `make bench-gpu`.\n\n{markdown(chosen)}"
    )


if __name__ == "__main__":
    main()
