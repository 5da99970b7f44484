"""Workers of a DataLoader that are not forked: Python 3.14's way on Linux, and everywhere else before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import forked
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.workers import start

TRAIN = """
import os, sys, time, torch
from torch.utils.data import DataLoader, Dataset
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint

class Slow(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 20:
            os.kill(0, int(sys.argv[1]))
        time.sleep(0.05)
        return torch.ones(1)

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    data = DataLoader(Slow(), 4, num_workers=2, multiprocessing_context="forkserver")
    Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[ModelCheckpoint("kept")],
            enable_progress_bar=False).fit(Model(), data)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_to_all_processes_is_left_to_the_one_that_trains(
    tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    done = subprocess.run(
        [sys.executable, "train.py", str(int(number))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    assert (tmp_path / "kept/interrupted.ckpt").exists()
    assert "resource_tracker" not in done.stderr


@pytest.mark.parametrize("persistent", [False, True])
def test_a_signal_to_a_worker_that_is_just_starting_ends_nothing(
    make_trainer: Any, regression: Any, make_loader: Any, monkeypatch: Any, persistent: bool
) -> None:
    """Torch's own handlers, which are there first, would let it end, and training with it, before it could save."""
    handlers = signal_handling._set_worker_signal_handlers

    def signalled() -> None:
        handlers()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loader = DataLoader(make_loader(4).dataset, num_workers=2, persistent_workers=persistent)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(regression(), loader, loader)

    assert trainer.current_epoch == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


class Ended:
    """A loader whose server ended while it began, as where the script trains whoever imports it."""

    num_workers, multiprocessing_context = 1, None

    def __iter__(self) -> Iterator[Any]:
        raise ConnectionResetError


def test_a_server_that_ends_is_told() -> None:
    with pytest.raises(MisconfigurationException, match='below `if __name__ == "__main__":`'):
        start(Ended())


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_what_workers_cannot_be_sent_is_told() -> None:
    loader: Any = DataLoader(
        [1], num_workers=1, collate_fn=lambda batch: batch, multiprocessing_context="spawn"
    )

    def life() -> str:
        with pytest.raises(MisconfigurationException, match="at the top of a module") as caught:
            start(loader)
        return str(caught.value)

    assert "<lambda>" in forked(life)
