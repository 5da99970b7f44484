"""The first signal saves at the next commit and leaves; the second leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import finish, script, start
from torch.utils.data import DataLoader, Dataset, get_worker_info

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.signals import INTERRUPTED

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


class Sender(Callback):
    """Send a signal to this process in a hook, once or more often."""

    def __init__(self, hook: str, number: int, times: int = 1, at: int = 2) -> None:
        def send(*args: Any) -> None:
            nonlocal at
            at -= 1
            for _ in range(times if at == 0 else 0):
                os.kill(os.getpid(), number)

        setattr(self, hook, send)


class SlowlyLoaded(Dataset):
    """Sends the signal from inside the loading of a sample, here or in a worker."""

    def __init__(self, number: int, to: int) -> None:
        self.number, self.to, self.count = number, to, 0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        worker = get_worker_info()
        if self.count == 6 and (worker is None or worker.id == 0):
            os.kill(self.to or os.getpid(), self.number)
        return torch.full((4,), index / 24), torch.ones(1)


@pytest.fixture
def train(tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any) -> Any:
    def run(*callbacks: Callback, data: Any = None, resume: Any = None, **more: Any) -> Any:
        torch.manual_seed(0)
        save = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=4)
        trainer = make_trainer(
            callbacks=[*callbacks, save], enable_checkpointing=True, max_epochs=2, **more
        )
        loader = make_loader(6, shuffle=True)
        trainer.fit(regression(), data or loader, make_loader(2), ckpt_path=resume)
        return read_checkpoint(Path(save.best_model_path))["state_dict"]

    return run


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "hook",
    ["on_train_batch_start", "on_train_batch_end", "on_validation_batch_start",
     "on_train_epoch_end", "on_save_checkpoint", "on_train_epoch_start"],
)  # fmt: skip
def test_saves_at_the_next_commit_and_goes_on_exactly(
    tmp_path: Path, train: Any, hook: str, number: int
) -> None:
    at = 1 if hook == "on_train_epoch_end" else 2
    code, _ = finish(*start(lambda: train(Sender(hook, number, at=at))))
    assert code == CODES[number]
    kept = tmp_path / "kept"
    assert (kept / INTERRUPTED).exists()
    resumed = finish(*start(lambda: train(resume="last")))[1][1]
    assert not (kept / INTERRUPTED).exists(), "the next checkpoint replaces it"
    for file in kept.iterdir():
        file.unlink()
    assert difference(train(), resumed) is None


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(("accumulate", "at", "batch"), [(1, 3, 4), (4, 1, 2), ("auto", 3, 4)])
def test_a_long_validation_ends_at_once_and_is_done_again(
    tmp_path: Path, train: Any, number: int, accumulate: Any, at: int, batch: int
) -> None:
    """Also in the middle of an accumulation window: gradients are saved."""
    seen = tmp_path / "seen"

    class Count(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            with seen.open("a") as file:
                file.write(".")

    more = {
        "accumulate_grad_batches": accumulate,
        "val_check_interval": 2,
        "num_sanity_val_steps": 0,
    }
    sender = Sender("on_validation_batch_start", number, at=at)
    code, _ = finish(*start(lambda: train(sender, Count(), **more)))
    assert code == CODES[number]
    assert len(seen.read_text()) == at, "the batch of the signal, and none after it"
    saved = read_checkpoint(tmp_path / "kept" / INTERRUPTED)
    assert saved["progress"]["batch"] == batch and saved["progress"]["pending"]
    resumed = finish(*start(lambda: train(Count(), resume="last", **more)))[1][1]
    assert len(seen.read_text()) == at + 12 - 2 * (batch // 2 - 1), "validation began anew"
    for file in (tmp_path / "kept").iterdir():
        file.unlink()
    assert difference(train(**more), resumed) is None


def test_a_signal_in_the_sanity_check_leaves_without_a_file(tmp_path: Path, train: Any) -> None:
    sender = Sender("on_sanity_check_start", signal.SIGTERM, at=1)
    assert finish(*start(lambda: train(sender, num_sanity_val_steps=2)))[0] == 143
    assert not (tmp_path / "kept").exists()


def test_a_signal_at_the_end_of_training_is_not_lost(tmp_path: Path, train: Any) -> None:
    sender = Sender("on_train_end", signal.SIGTERM, at=1)
    assert finish(*start(lambda: train(sender)))[0] == 143


def test_an_older_file_still_being_written_does_not_replace_it(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any, monkeypatch: Any
) -> None:
    """A save in the background of step 2 ends after the signal of step 3."""
    sync = os.fsync

    def life() -> None:
        monkeypatch.setattr(os, "fsync", lambda fd: (time.sleep(0.3), sync(fd))[1])
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, async_save=True)
        sender = Sender("on_train_batch_start", signal.SIGTERM, at=3)
        trainer = make_trainer(callbacks=[sender, save], enable_checkpointing=True)
        trainer.fit(regression(), make_loader(6))

    assert finish(*start(life))[0] == 143
    assert read_checkpoint(tmp_path / INTERRUPTED)["global_step"] == 3


def test_one_step_after_the_signal(tmp_path: Path, train: Any) -> None:
    finish(*start(lambda: train(Sender("on_train_batch_start", signal.SIGTERM))))
    assert read_checkpoint(tmp_path / "kept" / INTERRUPTED)["global_step"] == 2


def test_waits_for_the_end_of_an_accumulation_window(tmp_path: Path, train: Any) -> None:
    sender = Sender("on_train_batch_start", signal.SIGTERM)
    finish(*start(lambda: train(sender, accumulate_grad_batches=3)))
    assert read_checkpoint(tmp_path / "kept" / INTERRUPTED)["progress"]["batch"] == 3


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_stops_at_once(tmp_path: Path, train: Any, number: int) -> None:
    sender = Sender("on_train_batch_start", number, times=2, at=6)
    code, _ = finish(*start(lambda: train(sender)))
    assert code == CODES[number]
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["step=4.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 2])
def test_while_loading_data(tmp_path: Path, train: Any, number: int, workers: int) -> None:
    """Ctrl-C and SLURM signal every process of a job: workers leave it to the main one."""

    def life() -> None:
        group = -os.getpid() if workers else 0
        data = DataLoader(SlowlyLoaded(number, group), 4, num_workers=workers)
        train(data=data)

    assert finish(*start(life))[0] == CODES[number]
    assert (tmp_path / "kept" / INTERRUPTED).exists()


def test_slurm_is_asked_to_requeue_once(tmp_path: Path, train: Any, monkeypatch: Any) -> None:
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    sender = Sender("on_train_batch_start", signal.SIGUSR1)
    assert finish(*start(lambda: train(sender)))[0] == 143
    assert (tmp_path / "asked").read_text() == "requeue 71\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    finish(*start(lambda: train(Sender("on_train_batch_start", signal.SIGUSR1))))
    assert (tmp_path / "asked").read_text().splitlines()[1:] == ["requeue 70_3"]
    finish(*start(lambda: train(Sender("on_train_batch_start", signal.SIGTERM))))
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_handlers_are_put_back_and_only_the_main_thread_has_them(train: Any) -> None:
    before = [signal.getsignal(number) for number in CODES]
    seen: list[Any] = []

    class Look(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append([signal.getsignal(number) for number in CODES])

    train(Look())
    assert seen[0] != before
    assert [signal.getsignal(number) for number in CODES] == before
    thread = threading.Thread(target=lambda: train(Look()))
    thread.start()
    thread.join(30)
    assert seen[1] == before


@pytest.mark.parametrize("number", CODES)
def test_a_handler_of_ones_own_is_called(tmp_path: Path, train: Any, number: int) -> None:
    """It is left alone with the signal for requeueing; for the others training is saved and stopped, too."""

    def life() -> None:
        signal.signal(number, lambda *args: (tmp_path / "called").write_text(str(args[0])))
        train(Sender("on_train_batch_start", number))

    left_alone = number == signal.SIGUSR1
    code, text = finish(*start(life))
    assert (tmp_path / "called").read_text() == str(int(number)), text
    assert code == (0 if left_alone else CODES[number])
    assert (tmp_path / "kept" / INTERRUPTED).exists() != left_alone


def test_without_checkpoints_it_only_stops(
    make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    def life() -> None:
        sender = Sender("on_train_batch_start", signal.SIGTERM)
        make_trainer(callbacks=[sender]).fit(regression(), make_loader(6))

    assert finish(*start(life))[0] == 143
    assert not list(Path.cwd().rglob("*.ckpt"))


PROJECT = """
import os, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from scaffold_runtime import LightningDataModule, LightningModule
from scaffold_runtime.cli import run

def slow(place):
    if place == os.environ.get("SLOW"):
        with open("there", "a") as file:
            file.write(place)
        time.sleep(float(os.environ["SECONDS"]))

class Samples(Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, index):
        slow("loading" if index > 3 else "")
        return torch.ones(4) * index

class Model(LightningModule):
    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
    def training_step(self, batch, batch_idx):
        if batch_idx == 1:  # the first step is done, so there is something to save
            open("begun", "w").close()
        slow("training" if batch_idx > 1 else "")
        return self.layer(batch).square().mean()
    def validation_step(self, batch, batch_idx):
        slow("validation")
        self.log("val_loss", self.layer(batch).square().mean())
    def on_save_checkpoint(self, checkpoint):
        slow("saving")
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)
    def on_train_end(self):
        print("weights", self.layer.weight.tolist())

class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Samples(), 2, num_workers=int(os.environ["WORKERS"]), shuffle=False)
    def val_dataloader(self):
        return DataLoader(Samples(), 1, num_workers=int(os.environ["WORKERS"]))

if __name__ == "__main__":
    run(Model, Data)
"""


def project(folder: Path, slow: str, seconds: float, workers: int, *words: str) -> Any:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "train.py").write_text(PROJECT)
    trainer = "max_epochs: 2\naccelerator: cpu\nnum_sanity_val_steps: 0\n"
    for name, text in (("trainer", trainer), ("model", "{}"), ("data", "{}")):
        (folder / "configs" / f"{name}.yaml").write_text(text)
    extra = {"SLOW": slow, "SECONDS": str(seconds), "WORKERS": str(workers), "OMP_NUM_THREADS": "1"}
    # A shell leaves SIGINT as it is for what one starts at a terminal; a job in the background ignores it.
    return subprocess.Popen(
        [sys.executable, "train.py", "fit", *words], cwd=folder, env={**os.environ, **extra},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def ended(process: Any, seconds: float) -> tuple[str, str]:
    try:
        return process.communicate(timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """The weights of a project that nobody interrupts, trained once for each number of workers."""

    @cache
    def train(workers: int) -> list[str]:
        printed, _ = ended(project(tmp_path_factory.mktemp("whole"), "", 0, workers), 60)
        return weights(printed)

    return train


def weights(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("weights")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "workers", "number"),
    [("training", 0, signal.SIGINT), ("validation", 0, signal.SIGINT), ("loading", 2, signal.SIGINT),
     ("loading", 0, signal.SIGTERM), ("training", 2, signal.SIGTERM), ("loading", 2, signal.SIGTERM),
     ("validation", 2, signal.SIGTERM), ("saving", 0, signal.SIGINT)],
)  # fmt: skip
def test_a_real_signal_to_a_real_project(
    tmp_path: Path, unbroken: Callable[[int], list[str]], slow: str, workers: int, number: int
) -> None:
    """Ctrl-C goes to the whole process group. A second life ends where an only one would."""
    process = project(tmp_path, slow, 0.5, workers)
    until, places = time.monotonic() + 60, (tmp_path / "begun", tmp_path / "there")
    while not all(place.exists() for place in places) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    out, err = ended(process, 15)
    assert process.returncode == CODES[number], err
    assert len(list(tmp_path.rglob(INTERRUPTED))) == 1, err
    assert f'{INTERRUPTED}: ckpt_path="last" resumes from there' in out
    if number == signal.SIGINT:
        assert err.rstrip().endswith("interrupted")
    words = ("fit", "--ckpt_path=last")
    _, resumed, err = script(tmp_path, *words, SLOW="", SECONDS="0", WORKERS=str(workers))
    assert weights(resumed) == unbroken(workers) != [], err


@pytest.mark.slow
def test_a_second_real_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    process = project(tmp_path, "training", 30, 0)
    until = time.monotonic() + 60
    while not (tmp_path / "there").exists() and time.monotonic() < until:
        time.sleep(0.05)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
    ended(process, 10)
    assert process.returncode == 130
    assert not list(tmp_path.rglob(INTERRUPTED))
