"""Kill real training processes at random moments, resume them, and count how many end bit-identical.

    python kill_sweep.py 1000 [seed]

A run is killed up to five times. What it did in all its lives, and its end, is compared to a run that never
stopped: every batch, loss, learning rate, random number, weight, and logged value.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch
from forking import finish, forked, kill_group, start
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import LightningDataModule, LightningModule
from scaffold_runtime.callbacks import EarlyStopping, ModelCheckpoint
from scaffold_runtime.testing import ResumeError, compare_runs, train


class Model(LightningModule):
    """Dropout, running statistics, a schedule, and values of steps and epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x + 0.01 * torch.randn_like(x)), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.02)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        x = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))
        self.data = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, 4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.data, 12)


def make() -> Any:
    return Model(), Data()


def best(**more: Any) -> Any:
    return lambda: [ModelCheckpoint(every_n_train_steps=1, save_last=True, **more)]


KINDS: dict[str, dict[str, Any]] = {
    "each step": {},
    "top two": {"callbacks": best(monitor="loss_step", save_top_k=2)},
    "in the background": {"callbacks": best(async_save=True)},
    "accumulating, fp16": {"accumulate_grad_batches": 2, "precision": "16-mixed"},
    "every third step": {"callbacks": lambda: [ModelCheckpoint(every_n_train_steps=3)]},
    "stopping early": {
        "callbacks": lambda: [
            EarlyStopping("val_loss", patience=1),
            ModelCheckpoint(every_n_train_steps=2),
        ],
        "val_check_interval": 3,
    },
}


class Sweep:
    """The unbroken runs, and trials against them."""

    def __init__(self, place: Path, seed: int = 0) -> None:
        self.place, self.choose = place, random.Random(seed)
        self.unbroken: dict[str, Any] = {}
        self.kills = 0
        warnings.simplefilter("error")
        # The gradient scaler skips its first step, which torch's schedulers remark on.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")
        forked(lambda: train(make, place / "warm", 0, **self._settings("each step")))

    def _settings(self, kind: str) -> dict[str, Any]:
        return {"max_epochs": 3, "num_sanity_val_steps": 0, **KINDS[kind]}

    def reference(self, kind: str) -> Any:
        if kind not in self.unbroken:
            folder = self.place / kind / "unbroken"
            began = time.monotonic()
            rows, end = forked(lambda: train(make, folder, 0, **self._settings(kind)))
            self.unbroken[kind] = rows, end, time.monotonic() - began
        return self.unbroken[kind]

    def trial(self, number: int) -> str | None:
        """One run, killed one to five times: None, or how it differs from the unbroken one."""
        kind = list(KINDS)[number % len(KINDS)]
        rows, end, duration = self.reference(kind)
        folder = self.place / kind / str(number)
        trace, final = folder.with_suffix(".trace"), None
        lives = self.choose.randint(1, 5)
        for life in range(lives + 1):
            kill_after = self.choose.uniform(0, duration) if life < lives else None
            code, (good, result) = self._live(kind, folder, trace, kill_after)
            if code > 0 or (code == 0 and not good):
                return f"{kind}: life {life} failed: {result}"
            if code == 0:
                final = result
                break
        try:
            compare_runs(rows, end, read_trace(trace), final)
        except ResumeError as error:
            return f"{kind}: {error}"
        shutil.rmtree(folder)
        return None

    def _live(self, kind: str, folder: Path, trace: Path, kill_after: float | None) -> Any:
        def life() -> Any:
            return train(make, folder, 0, trace_file=trace, **self._settings(kind))[1]

        process = start(life)
        if kill_after is not None:
            end = time.monotonic() + kill_after
            while time.monotonic() < end and not _ended(process[0]):
                time.sleep(0.001)
            kill_group(process[0])
            self.kills += 1
        return finish(*process)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def read_trace(file: Path) -> list[dict[str, Any]]:
    """The rows of all lives; a kill may have torn the last of each."""
    rows = []
    for line in file.read_text().splitlines():
        for part in line.split('{"epoch"'):
            try:
                rows.append(json.loads('{"epoch"' + part))
            except json.JSONDecodeError:
                continue
    return rows


def main(count: int, seed: int) -> int:
    began, failures = time.monotonic(), []
    per_kind: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        sweep = Sweep(Path(place), seed)
        for number in range(count):
            failed = sweep.trial(number)
            per_kind[list(KINDS)[number % len(KINDS)]] += failed is None
            if failed is not None:
                failures.append(failed)
                print(f"trial {number}: {failed}")
    seconds = time.monotonic() - began
    for kind, same in per_kind.items():
        print(f"  {same:5} identical: {kind}")
    print(
        f"{count - len(failures)} of {count} runs, killed {sweep.kills} times, ended bit-identical to one "
        f"that never stopped ({seconds:.0f} s, {seconds / max(count, 1):.2f} s each)."
    )
    return 1 if failures else 0


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(numbers[0] if numbers else 100, numbers[1] if len(numbers) > 1 else 0))
