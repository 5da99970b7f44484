"""A signal to one process, or to all: all save the same step, and leave with its exit code; nobody stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import finish, start

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.signals import INTERRUPTED

from .test_ends import finish as finish_script
from .test_ends import start as start_script

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
SECONDS = 25


class Sender(Callback):
    """Send a signal in the n-th call of a hook in one process, to all of them, or to who started them."""

    def __init__(self, hook: str, number: int, to: str = "0", at: int = 2) -> None:
        def send(trainer: Any, *arguments: Any) -> None:
            nonlocal at
            at -= 1
            if at:
                return
            if to in ("all", str(trainer.global_rank)):
                os.kill(os.getpid(), number)
            if to in ("all", "launcher") and trainer.is_global_zero:
                os.kill(os.getppid(), number)

        setattr(self, hook, send)


class Slow(Callback):
    """So slow that the news of a signal arrive, and not too slow."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        time.sleep(0.04)

    def on_validation_batch_end(self, trainer: Any, *arguments: Any) -> None:
        time.sleep(0.01)


@pytest.fixture
def train(ddp: Any, regression: Any, make_loader: Any, tmp_path: Path) -> Any:
    def run(*callbacks: Callback, resume: Any = None, **more: Any) -> Any:
        torch.manual_seed(0)
        save = ModelCheckpoint(
            tmp_path / "kept",
            "{step}",
            every_n_train_steps=24 // more.get("accumulate_grad_batches", 1),
        )
        trainer = ddp(
            callbacks=[*callbacks, Slow(), save], enable_checkpointing=True, max_epochs=1, **more
        )
        loader = make_loader(60, shuffle=True)
        trainer.fit(regression(), loader, make_loader(9), ckpt_path=resume)
        return read_checkpoint(Path(save.best_model_path))["state_dict"]

    return run


def unbroken(train: Any, kept: Path, **more: Any) -> Any:
    for file in kept.iterdir():
        file.unlink()
    return finish(*start(lambda: train(**more)), SECONDS)[1][1]


@pytest.mark.parametrize(
    ("number", "to"),
    [(signal.SIGTERM, "0"), (signal.SIGTERM, "1"), (signal.SIGTERM, "all"), (signal.SIGINT, "launcher"),
     (signal.SIGINT, "all"), (signal.SIGUSR1, "1"), (signal.SIGTERM, "launcher")],
)  # fmt: skip
def test_all_save_the_same_step_and_go_on_exactly(
    train: Any, tmp_path: Path, number: int, to: str
) -> None:
    kept = tmp_path / "kept"
    code, _ = finish(*start(lambda: train(Sender("on_train_batch_start", number, to))), SECONDS)
    assert code == CODES[number]
    saved = read_checkpoint(kept / INTERRUPTED)
    assert 2 <= saved["global_step"] < 30 and len(saved["ranks"]) == 2
    resumed = finish(*start(lambda: train(resume="last")), SECONDS)[1][1]
    at_the_last_save = saved["global_step"] == 24  # no later one takes its place
    assert (kept / INTERRUPTED).exists() == at_the_last_save
    assert difference(unbroken(train, kept), resumed) is None


@pytest.mark.parametrize("to", ["0", "1", "all", "launcher"])
def test_one_that_comes_after_the_last_epoch_is_obeyed_by_all(
    train: Any, tmp_path: Path, to: str
) -> None:
    sender = Sender("on_train_end", signal.SIGTERM, to, at=1)
    code, _ = finish(*start(lambda: train(sender)), SECONDS)
    assert code == 143
    assert [file.name for file in (tmp_path / "kept").iterdir()] == [
        "step=24.ckpt"
    ], "as without it"


@pytest.mark.parametrize("to", ["0", "1", "all"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_validation_ends_at_the_same_batch(
    train: Any, tmp_path: Path, to: str, accumulate: int
) -> None:
    """9 batches for two processes: one has more. What is saved is from before it."""
    seen = tmp_path / "seen"

    class Count(Callback):
        def on_validation_end(self, *arguments: Any) -> None:
            with seen.open("a") as file:
                file.write(".")

    more = {"val_check_interval": 14, "accumulate_grad_batches": accumulate}
    sender = Sender("on_validation_batch_start", signal.SIGTERM, to, at=7)
    code, _ = finish(*start(lambda: train(sender, Count(), **more)), SECONDS)
    assert code == 143
    saved = read_checkpoint(tmp_path / "kept" / INTERRUPTED)
    done = len(seen.read_text()) // 2 if seen.exists() else 0
    assert saved["progress"]["batch"] == 14 * (done + 1) or not saved["progress"]["pending"]
    resumed = finish(*start(lambda: train(resume="last", **more)), SECONDS)[1][1]
    assert difference(unbroken(train, tmp_path / "kept", **more), resumed) is None


def test_a_long_validation_does_not_go_on(train: Any, tmp_path: Path, make_loader: Any) -> None:
    class VerySlow(Callback):
        def on_validation_batch_end(self, *arguments: Any) -> None:
            time.sleep(1.0)

    sender = Sender("on_validation_batch_start", signal.SIGINT, "1", at=2)
    begun = time.monotonic()
    code, _ = finish(*start(lambda: train(sender, VerySlow(), val_check_interval=2)), SECONDS)
    assert code == 130
    assert time.monotonic() - begun < 10
    assert read_checkpoint(tmp_path / "kept" / INTERRUPTED)["progress"]["pending"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_saves_nothing_ends_at_once(
    ddp: Any, regression: Any, make_loader: Any, number: int
) -> None:
    """`validate`, `test` and `predict` in processes of their own, where their launcher gets the signal."""

    class VerySlow(Callback):
        def on_predict_batch_end(self, *arguments: Any) -> None:
            time.sleep(SECONDS)

    sender = Sender("on_predict_batch_start", number, "launcher", at=1)
    trainer = ddp(callbacks=[sender, VerySlow()])

    def predict() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background
        trainer.predict(regression(), make_loader(8))

    begun = time.monotonic()
    code, _ = finish(*start(predict), SECONDS)
    assert code in (130, -number)
    assert time.monotonic() - begun < 5


def test_requeued_once(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    sender = Sender("on_train_batch_start", signal.SIGUSR1, "all")
    assert finish(*start(lambda: train(sender)), SECONDS)[0] == 143
    assert (tmp_path / "asked").read_text() == "requeue 71\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a script prints that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    printed, _ = finish_script(start_script(folder, "pass", epochs=20), folder, 60)
    return sorted(printed.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "to"), [(signal.SIGTERM, "first"), (signal.SIGTERM, "second"), (signal.SIGINT, "first"),
                     (signal.SIGTERM, "all")],
)  # fmt: skip
def test_a_script_saves_leaves_and_goes_on(
    tmp_path: Path, whole: list[str], sign: signal.Signals, to: str
) -> None:
    """Real processes and a signal from outside; a second life ends where one life would have."""
    body = "open(f'pid-{trainer.global_rank}', 'w').write(str(os.getpid())); time.sleep(0.05)"
    process = start_script(tmp_path, body, epochs=20)
    pids = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
    until = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in pids) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    first, second = (int(file.read_text()) for file in pids)
    for pid in {"first": [first], "second": [second], "all": [first, second]}[to]:
        os.kill(pid, sign)
    _, err = finish_script(process, tmp_path, 15)
    # Python ends itself by SIGINT, which a shell shows as 130.
    assert process.returncode == (-sign if sign == signal.SIGINT else 143), err
    saved = read_checkpoint(next(tmp_path.rglob(INTERRUPTED)))
    assert 0 < saved["global_step"] < 8 * 20 and len(saved["ranks"]) == 2
    out, err = finish_script(start_script(tmp_path, "pass", epochs=20), tmp_path, 60)
    said, *ended = sorted(out.splitlines())
    assert said.startswith("'last' is ") and INTERRUPTED in said
    assert ended == whole, err
