"""One process fails, freezes or is killed: all end soon, the reason is printed last, nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from scaffold_runtime import Callback
from scaffold_runtime.errors import RankFailed, leave_to_launcher
from scaffold_runtime.strategies.watch import Watch

from .conftest import note, notes

PLACES = (
    "setup",
    "on_train_start",
    "training_step",
    "on_after_backward",
    "on_train_batch_end",
    "on_validation_start",
    "on_save_checkpoint",
    "on_train_epoch_end",
    "teardown",
)


class Broken(Callback):
    """Fails in one hook of one process."""

    def __init__(self, place: str, rank: int) -> None:
        def fail(trainer: Any, *arguments: Any) -> None:
            if trainer.global_rank == rank:
                raise ValueError(f"broken in {place}")

        setattr(self, place, fail)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", [place for place in PLACES if place != "training_step"])
def test_a_failure_anywhere_ends_all(
    regression: Any, make_loader: Any, ddp: Any, tmp_path: Path, place: str, rank: int
) -> None:
    begun = time.monotonic()
    trainer = ddp(
        callbacks=Broken(place, rank), enable_checkpointing=True, default_root_dir=tmp_path
    )

    with pytest.raises(RankFailed) as failure:
        trainer.fit(regression(), make_loader(4), make_loader(2))

    assert str(failure.value).endswith(f"ValueError: broken in {place}")
    assert f"process {rank} failed" in str(failure.value)
    assert time.monotonic() - begun < 10


def test_a_failing_step_and_a_skipped_batch(regression: Any, make_loader: Any, ddp: Any) -> None:
    class Step(regression):  # type: ignore[misc] # a fixture gives the class
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if self.trainer.global_rank else super().training_step(batch, batch_idx)

    with pytest.raises(RankFailed, match="`training_step` returned None"):
        ddp().fit(Step(), make_loader(4))


def test_a_batch_of_none(regression: Any, ddp: Any) -> None:
    """One process would wait for gradients that never come."""
    batch = (torch.zeros(2, 4), torch.zeros(2, 1))
    loader = DataLoader([0, 1, 2, 3], collate_fn=lambda ids: None if ids[0] == 3 else batch)
    with pytest.raises(RankFailed, match="gave None instead of a batch"):
        ddp().fit(regression(), loader)


def test_a_batch_of_none_in_a_stream(regression: Any, ddp: Any) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.zeros(2, 4), torch.zeros(2, 1)), None, None])

    with pytest.raises(RankFailed, match="gave None instead of a batch"):
        ddp().fit(regression(), DataLoader(Stream(), batch_size=None))


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise ValueError("broken sample")
        return torch.ones(4), torch.ones(1)


def test_a_failing_data_worker_ends_all(regression: Any, ddp: Any) -> None:
    with pytest.raises(RankFailed, match="broken sample"):
        ddp().fit(regression(), DataLoader(Samples(), batch_size=1, num_workers=1))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all(regression: Any, make_loader: Any, ddp: Any, rank: int) -> None:
    class Killed(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_rank == rank:
                os.kill(os.getpid(), signal.SIGKILL)

    begun = time.monotonic()
    with pytest.raises(RankFailed):
        ddp(callbacks=Killed()).fit(regression(), make_loader(8))
    assert time.monotonic() - begun < 10


def test_a_frozen_process_ends_all(regression: Any, make_loader: Any, ddp: Any) -> None:
    class Frozen(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_rank:
                os.kill(os.getpid(), signal.SIGSTOP)

    trainer = ddp(callbacks=Frozen())
    trainer.strategy.timeout = timedelta(seconds=5)
    begun = time.monotonic()
    hint = "" if sys.version_info < (3, 11) else ".*SCAFFOLD_DEBUG_COLLECTIVES=1"
    with pytest.raises(RankFailed, match=f"(?s)[Tt]imed out{hint}"):
        trainer.fit(regression(), make_loader(8))
    assert time.monotonic() - begun < 5 + 5 + 5  # and what it takes to begin


@pytest.mark.parametrize("ranks", [[1], [0, 1]])
def test_an_epoch_ends_in_all_processes_or_in_none(
    regression: Any, make_loader: Any, ddp: Any, ranks: list[int]
) -> None:
    class Ends(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> Any:
            return -1 if index == 1 and trainer.global_rank in ranks else None

    trainer = ddp(callbacks=Ends(), max_epochs=2)
    trainer.strategy.timeout = timedelta(seconds=5)
    one = pytest.raises(RankFailed, match="returned -1 at batch 1 in process 1 and not in all")
    with one if ranks == [1] else nullcontext():
        trainer.fit(regression(), make_loader(8))
        assert trainer.global_step == 2


def test_a_debug_mode_names_a_collective_of_one_process(
    regression: Any, make_loader: Any, ddp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnlyFirst(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.is_global_zero:
                trainer.strategy.barrier("only the first")

    monkeypatch.setenv("SCAFFOLD_DEBUG_COLLECTIVES", "1")
    trainer = ddp(callbacks=OnlyFirst())
    trainer.strategy.timeout = timedelta(seconds=8)  # half of it is what the others may take
    with pytest.raises(RankFailed) as failure:
        trainer.fit(regression(), make_loader(8))

    assert "process 0 calls `barrier`" in str(failure.value)
    assert f"{Path(__file__).name}:" in str(failure.value).splitlines()[-1]  # the line that made it


def test_the_debug_mode_names_gathered_tensors_of_different_shapes(
    regression: Any, make_loader: Any, ddp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch would abort one process, and the other one would only see that it is gone."""

    class Uneven(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
            pl_module.all_gather({"rows": torch.ones(3 - trainer.global_rank, 2)})

    monkeypatch.setenv("SCAFFOLD_DEBUG_COLLECTIVES", "1")
    with pytest.raises(RankFailed, match=r"all_gather of torch.float32 [32]x2` .* [23]x2`"):
        ddp(callbacks=Uneven()).fit(regression(), make_loader(8))


def test_an_evaluation_that_gathers_different_numbers_is_told_how(
    regression: Any, make_loader: Any, ddp: Any, tmp_path: Path
) -> None:
    class Uneven(Callback):
        def __init__(self, gather: str) -> None:
            self.gather = gather

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            rows = torch.ones(3 - trainer.global_rank, 2)
            if self.gather == "all":
                pl_module.all_gather(rows)
            note(tmp_path, "rows", [len(part) for part in trainer.strategy.gather(rows)])

    with pytest.raises(RankFailed, match=r"3x2 in process 0, torch.float32 2x2 in process 1\. No"):
        ddp(callbacks=Uneven("all")).validate(regression(), make_loader(4))
    ddp(callbacks=Uneven("lists")).validate(regression(), make_loader(4))
    assert notes(tmp_path, "rows") == [[3, 2], [3, 2]]


@pytest.mark.parametrize("gathers", [False, True])
def test_no_process_waits_in_steps_of_an_uneven_evaluation(
    gathers: bool, regression: Any, make_loader: Any, ddp: Any
) -> None:
    """Of three batches the first process has two."""

    class InSteps(Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.log("seen", 1.0, on_step=True, on_epoch=True, sync_dist=True)
            if gathers:
                pl_module.all_gather(torch.ones(2))

    trainer = ddp(callbacks=InSteps())
    refused = pytest.raises(RankFailed, match="different numbers of batches")
    with refused if gathers else nullcontext():
        trainer.validate(regression(), make_loader(3))
        assert trainer.callback_metrics["seen_epoch"] == 1.0
    ddp(callbacks=InSteps()).validate(regression(), make_loader(4))
    ddp(callbacks=InSteps(), limit_val_batches=1).validate(regression(), make_loader(3))


def test_no_process_waits_in_steps_of_an_uneven_prediction(
    regression: Any, make_loader: Any, ddp: Any, tmp_path: Path
) -> None:
    """Of three batches the first process has two; when the epoch ends all may wait for all."""

    class Gathers(Callback):
        def on_predict_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.all_gather(torch.ones(2))

        def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            note(tmp_path, "shape", list(pl_module.all_gather(torch.ones(2)).shape))

    with pytest.raises(RankFailed, match="different numbers of batches"):
        ddp(callbacks=Gathers()).predict(regression(), make_loader(3))
    ddp(callbacks=Gathers()).predict(regression(), make_loader(4))
    assert notes(tmp_path, "shape") == [[2, 2], [2, 2]]


def test_the_debug_mode_leaves_good_runs_alone(
    regression: Any, make_loader: Any, ddp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCAFFOLD_DEBUG_COLLECTIVES", "1")
    trainer = ddp(enable_checkpointing=True, max_epochs=2)
    trainer.fit(regression(), make_loader(8), make_loader(3))

    assert trainer.global_step == 8


def test_stopping_is_agreed(regression: Any, make_loader: Any, ddp: Any, tmp_path: Path) -> None:
    """One process is asked to stop: all stop, after the same batch."""

    class Ask(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_rank and trainer.global_step == 3:
                trainer.should_stop = True

        def on_train_end(self, trainer: Any, *arguments: Any) -> None:
            (tmp_path / str(trainer.global_rank)).write_text(str(trainer.global_step))

    ddp(callbacks=Ask(), max_epochs=10_000).fit(regression(), make_loader(200))

    steps = {(tmp_path / str(rank)).read_text() for rank in (0, 1)}
    assert len(steps) == 1
    assert 3 <= int(steps.pop()) < 100_000


SCRIPT = r"""
import glob, os, signal, sys, time
import torch
from datetime import timedelta
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.strategies import DDPStrategy

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Act(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        BODY

torch.manual_seed(0)
model = Model()
trainer = Trainer(accelerator="cpu", devices=2, max_epochs=EPOCHS,
                  callbacks=[ModelCheckpoint(every_n_train_steps=2), Act()],
                  strategy=DDPStrategy(timeout=timedelta(seconds=15)), logger=CSVLogger("logs", "run", "one"),
                  enable_progress_bar=False, enable_model_summary=False)
trainer.fit(model, DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=4, shuffle=True),
            ckpt_path="last" if glob.glob("logs/**/*.ckpt", recursive=True) else None)
weight = model.net.weight.sum().item()
sys.stdout.write(f"done {trainer.global_rank} {trainer.global_step} {weight}\n")
"""


def start(folder: Path, body: str, epochs: int = 2, *words: str) -> subprocess.Popen[str]:
    script = folder / "train.py"
    body = textwrap.indent(textwrap.dedent(body), " " * 8).strip()
    script.write_text(SCRIPT.replace("BODY", body).replace("EPOCHS", str(epochs)))
    return subprocess.Popen(
        [*(words or (sys.executable,)), "train.py"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def survivors(folder: Path) -> list[str]:
    """Processes that were started in `folder` and still run."""
    left = []
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name == str(os.getpid()):
            continue
        try:
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and os.readlink(entry / "cwd") == str(folder):
                left.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return left


def finish(process: subprocess.Popen[str], folder: Path, seconds: float) -> tuple[str, str]:
    """What it printed; it must end in time and leave nobody."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    until = time.monotonic() + 5
    while survivors(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert survivors(folder) == []
    return out, err


@pytest.mark.slow
def test_a_script_trains_in_two_processes(tmp_path: Path) -> None:
    """One argument: the script is run again for the second device; files are written once."""
    process = start(tmp_path, "pass")
    out, err = finish(process, tmp_path, 90)

    assert process.returncode == 0, err
    lines = sorted(line for line in out.splitlines() if line.startswith("done"))
    assert [line.split()[1:3] for line in lines] == [["0", "16"], ["1", "16"]]
    assert len({line.split()[3] for line in lines}) == 1
    assert [folder.name for folder in (tmp_path / "logs" / "run").iterdir()] == ["one"]
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("if trainer.global_rank == 1: raise ValueError('broken here')", "broken here"),
        ("if trainer.global_rank == 0: raise ValueError('broken here')", "broken here"),
        ("raise ValueError('broken here')", "broken here"),
        (
            "if trainer.global_rank == 1: os.kill(os.getpid(), signal.SIGKILL)",
            "SIGKILL, perhaps because memory ran out.",
        ),
    ],
    ids=["second", "first", "all", "killed"],
)
def test_a_script_ends_whole(tmp_path: Path, body: str, reason: str) -> None:
    """The reason is the last thing printed, and printed once."""
    process = start(tmp_path, body)
    _, err = finish(process, tmp_path, 60)

    assert process.returncode == 1
    assert err.rstrip().endswith(reason)
    assert sum(line.endswith(reason) for line in err.splitlines()) == 1, err


@pytest.mark.slow
def test_two_reasons_are_both_printed(tmp_path: Path) -> None:
    body = """
        time.sleep(1 - trainer.global_rank)
        raise ValueError(f"broken in process {trainer.global_rank}")
    """
    _, err = finish(start(tmp_path, body), tmp_path, 60)

    assert err.rstrip().endswith("ValueError: broken in process 0")
    assert err.count("ValueError: broken in process 1") == 1


def test_only_the_error_that_others_print_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def show(kind: Any, value: BaseException, trace: Any) -> None:
        shown.append(value)

    shown: list[BaseException] = []
    error, other = ValueError("of the run"), KeyError("after it")
    monkeypatch.setattr(sys, "excepthook", show)
    leave_to_launcher(error)
    for one in (error, other):
        sys.excepthook(type(one), one, None)
    assert shown == [other]


def test_an_error_that_nobody_can_be_told_is_printed() -> None:
    watch = Watch("run", 1, None, quiet=True)
    assert "ValueError: too soon" in watch.publish(ValueError("too soon"))
    assert not watch.quiet


WATCHING = """
import os
import time

import torch.distributed as dist

from scaffold_runtime.strategies import watch

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
watch.PERIOD = 0
watch.Watch("run", 0, None).open()
time.sleep(0.2)
"""


def test_a_failure_is_printed_by_one_thread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main thread waited for the message of a process that took long to end."""

    class Children:
        def end(self) -> None:
            watch.close()

    left: list[int] = []
    monkeypatch.setattr("scaffold_runtime.strategies.watch.GRACE", 0)
    monkeypatch.setattr(os, "_exit", left.append)
    watch = Watch("run", 0, Children())
    watch._open = True
    watch._end(RankFailed("why"))
    assert not left and not capsys.readouterr().err


def test_python_ends_while_failures_are_looked_for() -> None:
    """The thread is then nearly always inside a question to the store, where Python must not end it."""
    ended = subprocess.run(
        [sys.executable, "-c", WATCHING], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_a_launcher_that_goes_between_two_questions_is_noticed() -> None:
    class Store:
        questions = 0

        def check(self, keys: list[str]) -> bool:
            self.questions += 1
            if self.questions > 1:
                raise RuntimeError("Connection reset by peer")
            return False

    def end(failure: RankFailed) -> None:
        said.append(str(failure))
        watch._wake.set()

    said: list[str] = []
    watch = Watch("run", 0, None)
    watch._store, watch._open, watch._end = Store(), True, end  # type: ignore[method-assign]
    watch._look()

    assert said == ["process 0, or the launcher, is gone."]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_the_first_process_is_stopped(tmp_path: Path, sign: signal.Signals) -> None:
    process = start(tmp_path, "open('going', 'w'); time.sleep(0.05)", epochs=1000)
    until = time.monotonic() + 60
    while not (tmp_path / "going").exists() and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    begun = time.monotonic()
    process.send_signal(sign)
    finish(process, tmp_path, 10)

    assert time.monotonic() - begun < 5 + 1
    assert process.returncode != 0
