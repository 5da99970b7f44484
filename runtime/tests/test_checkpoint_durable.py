"""A save that fails or is killed at any system call leaves the previous checkpoint whole."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import FaultyCalls, crash_states
from forking import KILLED, finish, start

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import (
    link_atomically,
    read_checkpoint,
    write_atomically,
    write_checkpoint,
)
from scaffold_runtime.errors import CheckpointError

OLD = {"state_dict": {"w": torch.zeros(300)}, "global_step": 1}
NEW = {"state_dict": {"w": torch.ones(300)}, "global_step": 2}
ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EFBIG]


def step_in(path: Path) -> int:
    return int(read_checkpoint(path)["global_step"])


def faulty_save(path: Path, number: int, action: Any) -> FaultyCalls:
    """Save over `path` while the `number`-th call fails; True if so many calls were made."""
    with FaultyCalls(number, action) as calls:
        write_checkpoint(NEW, path)
    return calls


@pytest.mark.parametrize("letter", ["a", "\u00e4"])
def test_a_name_as_long_as_names_can_be(tmp_path: Path, letter: str) -> None:
    name = letter * (250 // len(letter.encode())) + ".ckpt"
    for checkpoint in (OLD, NEW):
        write_checkpoint(checkpoint, tmp_path / name)
    link_atomically(tmp_path / name, tmp_path / f"b{name[1:]}")
    assert [step_in(file) for file in tmp_path.iterdir()] == [2, 2]


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_a_failing_call_is_named_and_the_old_file_stays(tmp_path: Path, code: int) -> None:
    path, tried = tmp_path / "a.ckpt", []
    for number in range(1, 200):
        write_checkpoint(OLD, path)
        try:
            calls = faulty_save(path, number, code)
        except CheckpointError as error:
            tried.append(str(error))
        else:
            # No call failed, or only that which makes a folder that is there.
            assert step_in(path) == 2
            if not calls.fired:
                break
        assert step_in(path) in (1, 2)
        assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"], "litter"
    assert step_in(path) == 2
    assert all(str(path) in text and os.strerror(code) in text for text in tried), tried
    assert len(tried) > 5  # open, writes, fsync, rename, fsync of the folder


def test_killed_at_every_call_the_old_or_the_new_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    killed, states = 0, set()
    for number in range(1, 200):
        write_checkpoint(OLD, path)
        code, _ = finish(*start(lambda n=number: bool(faulty_save(path, n, "kill"))))
        states.add(step_in(path))
        if code != KILLED:
            break
        killed += 1
    assert killed > 5
    assert states == {1, 2}


def test_power_cut_at_every_moment(tmp_path: Path) -> None:
    """What was not synced may be lost, in any combination: a file's data, a rename."""
    path = tmp_path / "a.ckpt"
    write_checkpoint(OLD, path)
    seen = set()
    for state in crash_states(tmp_path, lambda: write_checkpoint(NEW, path)):
        found = state / "a.ckpt"
        assert found.exists(), "neither the old nor the new"
        seen.add(step_in(found))
    assert seen == {1, 2}


@pytest.mark.parametrize("broken", ["no fsync", "no directory fsync", "in place", "rename first"])
def test_the_power_cut_test_finds_each_missing_step(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(OLD, path)
    damaged, stale = 0, False
    for state in crash_states(tmp_path, lambda: careless_write(path, broken)):
        try:
            stale = step_in(state / "a.ckpt") == 1  # the last state is after the save returned
        except CheckpointError:
            damaged += 1
    assert damaged or (broken == "no directory fsync" and stale)


def careless_write(path: Path, broken: str) -> None:
    temporary = path if broken == "in place" else path.with_suffix(".partial")
    with open(temporary, "wb") as file:
        torch.save(NEW, file)
        file.flush()
        if broken == "rename first":
            os.replace(temporary, path)
        if broken != "no fsync":
            os.fsync(file.fileno())
    if broken in ("no fsync", "no directory fsync"):
        os.replace(temporary, path)
    if broken != "no directory fsync":
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


@pytest.mark.parametrize("symbolic", [False, True])
def test_links_fail_like_files(tmp_path: Path, symbolic: bool) -> None:
    target, link, named = tmp_path / "a.ckpt", tmp_path / "last.ckpt", []
    write_checkpoint(OLD, link)
    write_checkpoint(NEW, target)
    for number in range(1, 20):
        try:
            with FaultyCalls(number, errno.ENOSPC) as calls:
                link_atomically(target, link, symbolic)
        except CheckpointError as error:
            named.append(str(link) in str(error))
        assert step_in(link) in (1, 2)
        assert not list(tmp_path.glob("*.partial"))
        if not calls.fired:
            break
    assert step_in(link) == 2
    assert len(named) > 2 and all(named)


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_checkpoint(NEW, tmp_path / "a.ckpt")
    link_atomically(tmp_path / "a.ckpt", tmp_path / "last.ckpt")
    assert step_in(tmp_path / "last.ckpt") == 2
    assert (tmp_path / "last.ckpt").stat().st_nlink == 1


STRACED = """
import sys, torch
from pathlib import Path
from scaffold_runtime.checkpoint.io import write_checkpoint
write_checkpoint({"state_dict": {"w": torch.ones(300)}, "global_step": 2}, Path(sys.argv[1]))
"""


def traced(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["strace", "-qq", "-e", "trace=openat,write,fsync,rename", *options]
    return subprocess.run(
        [*command, sys.executable, "-c", STRACED, str(path)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_the_kernel_sees_the_same(tmp_path: Path) -> None:
    """The calls themselves, and not Python's, for the few that matter: fsync and rename."""
    path = tmp_path / "a.ckpt"
    try:
        works = traced(path, "-o", os.devnull).returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip("strace is not installed, or may not trace here")
    for call, number in (("fsync", 1), ("rename", 1), ("fsync", 2)):
        for action in ("signal=SIGKILL", "error=ENOSPC"):
            write_checkpoint(OLD, path)
            done = traced(path, "-o", os.devnull, "-e", f"inject={call}:{action}:when={number}")
            assert done.returncode != 0, (call, number, action)
            if "error" in action:
                assert "No space left" in done.stderr and str(path) in done.stderr
            assert step_in(path) == (2 if (call, number) == ("fsync", 2) else 1)


# -- retention ------------------------------------------------------------------------------------


def fit(
    make_trainer: Any, regression: Any, make_loader: Any, save: ModelCheckpoint, **more: Any
) -> Any:
    trainer = make_trainer(callbacks=[save], enable_checkpointing=True, **more)
    trainer.fit(regression(), make_loader(6))
    return trainer


def test_the_old_one_goes_only_after_the_new_one_is_durable(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any, monkeypatch: Any
) -> None:
    order: list[str] = []
    sync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), sync(fd))[1])
    monkeypatch.setattr(
        Path, "unlink", lambda p, **k: (order.append(f"unlink {p.name}"), unlink(p, **k))[1]
    )
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2)
    fit(make_trainer, regression, make_loader, save)
    relevant = [entry for entry in order if "interrupted" not in entry]
    assert relevant == ["fsync"] * 4 + [
        "unlink step=2.ckpt",
        "fsync",
        "fsync",
        "unlink step=4.ckpt",
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_stops_training_and_keeps_the_last_good_one(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any, asynchronous: bool
) -> None:
    save = ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, async_save=asynchronous
    )
    with FaultyCalls(0, errno.ENOSPC) as calls:
        calls.fail_file("step=4.ckpt")
        with pytest.raises(CheckpointError, match=r"step=4\.ckpt: .*No space left"):
            fit(make_trainer, regression, make_loader, save)
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["step=3.ckpt"]
    assert step_in(tmp_path / "step=3.ckpt") == 3
    assert not list(tmp_path.glob(".*"))


def test_why_a_write_failed_is_what_the_system_said(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        try:
            file.write(b"x" * 1000)
        except OSError:
            raise RuntimeError("as torch does, whose traceback says nothing more") from None

    with FaultyCalls(3, errno.ENOSPC), pytest.raises(CheckpointError, match="No space") as failure:
        write_atomically(tmp_path / "a.ckpt", write)
    assert isinstance(failure.value.__cause__, OSError)


def test_the_next_start_leaves_no_litter(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    (tmp_path / ".step=9.ckpt.abc.partial").write_bytes(b"half")
    (tmp_path / "notes.partial").write_text("mine")
    fit(make_trainer, regression, make_loader, ModelCheckpoint(tmp_path))
    assert {file.suffix for file in tmp_path.iterdir()} == {".ckpt", ".partial"}
    assert (tmp_path / "notes.partial").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("linked", [False, True])
def test_a_start_leaves_what_another_live_run_writes(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any, linked: bool
) -> None:
    """It is in the middle of a save, or of giving a file another name, while a run starts in the same folder."""
    waits, go = multiprocessing.Event(), multiprocessing.Event()

    def elsewhere() -> None:
        replace = os.replace

        def hold(*names: Any) -> None:
            waits.set()
            assert go.wait(30)
            replace(*names)

        (tmp_path / "theirs.ckpt").touch()
        os.replace = hold
        if linked:
            link_atomically(tmp_path / "theirs.ckpt", tmp_path / "last.ckpt")
        else:
            write_atomically(tmp_path / "theirs.ckpt", lambda file: file.write(b"whole"))

    other = multiprocessing.get_context("fork").Process(target=elsewhere)
    other.start()
    assert waits.wait(30)
    (tmp_path / ".of-a-killed-one.ckpt.abc.partial").touch()
    fit(make_trainer, regression, make_loader, ModelCheckpoint(tmp_path, "{step}"))
    unfinished = [file.name for file in tmp_path.glob(".*")]
    go.set()
    other.join(30)

    assert other.exitcode == 0 and len(unfinished) == 1 and "killed" not in unfinished[0]
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "step=6.ckpt") == (
        ["last.ckpt", "theirs.ckpt"] if linked else ["theirs.ckpt"]
    )
    assert linked or (tmp_path / "theirs.ckpt").read_bytes() == b"whole"


def test_a_process_forked_while_a_file_is_written_does_not_keep_its_lock(tmp_path: Path) -> None:
    """As a worker of a loader, beside a thread that saves."""
    workers = []

    def write(file: Any) -> None:
        file.write(b"whole")
        workers.append(start(lambda: time.sleep(30)))

    write_atomically(tmp_path / "a.ckpt", write)
    try:
        with (tmp_path / "a.ckpt").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as for a link to it
    finally:
        os.kill(workers[0][0], signal.SIGKILL)
        finish(*workers[0])


def killed_save(run: Callable[[], Any], number: int) -> int:
    def life() -> None:
        warnings.simplefilter("error")
        with FaultyCalls(number, "kill"):
            run()

    return finish(*start(life))[0]


@pytest.mark.slow
def test_killed_at_every_call_of_a_training_run_then_resumed(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    """Best of two with `last`: whatever call is the last one, the next life ends with the same files."""

    def run(folder: Path, resume: str | None = None) -> None:
        torch.manual_seed(0)
        save = ModelCheckpoint(
            folder, "{step}", "loss", save_top_k=2, save_last=True, every_n_train_steps=2
        )
        trainer = make_trainer(callbacks=[save], enable_checkpointing=True, log_every_n_steps=1)
        trainer.fit(regression(), make_loader(6), ckpt_path=resume)

    run(tmp_path / "whole")
    expected = {f.name: step_in(f) for f in (tmp_path / "whole").iterdir()}
    killed = 0
    for number in range(1, 400):
        folder = tmp_path / str(number)
        code = killed_save(lambda f=folder: run(f), number)
        if code == 0:
            break
        assert code == KILLED
        killed += 1
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            run(folder, "last")
        assert {f.name: step_in(f) for f in folder.iterdir()} == expected, number
    assert killed > 30


# -- beside training ------------------------------------------------------------------------------


def test_async_files_are_the_state_of_their_step(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    for name, asynchronous in (("sync", False), ("async", True)):
        torch.manual_seed(0)
        save = ModelCheckpoint(
            tmp_path / name, "{step}", save_top_k=-1, every_n_train_steps=1,
            save_last=True, async_save=asynchronous,
        )  # fmt: skip
        fit(make_trainer, regression, make_loader, save)
    names = sorted(file.name for file in (tmp_path / "sync").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "async").iterdir())
    for name in names:
        one, two = (read_checkpoint(tmp_path / kind / name) for kind in ("sync", "async"))
        assert torch.equal(one["state_dict"]["net.0.weight"], two["state_dict"]["net.0.weight"])
        assert one["progress"] == two["progress"]


def test_async_blocks_only_for_the_copy(tmp_path: Path, make_trainer: Any, regression: Any) -> None:
    """While a slow disk writes, training goes on; fit returns when the file is there."""
    import time

    from torch.utils.data import DataLoader, TensorDataset

    slow, sync = 0.3, os.fsync
    steps_while_writing: list[int] = []
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, async_save=True)
    trainer = make_trainer(callbacks=[save], enable_checkpointing=True, max_steps=3)

    def slow_sync(descriptor: int) -> None:
        time.sleep(slow)
        steps_while_writing.append(trainer.global_step)
        sync(descriptor)

    os.fsync = slow_sync
    try:
        data = DataLoader(TensorDataset(torch.randn(40, 4), torch.randn(40, 1)), 4)
        trainer.fit(regression(), data)
    finally:
        os.fsync = sync
    assert steps_while_writing[0] == 3
    assert step_in(tmp_path / "step=2.ckpt") == 2 or step_in(tmp_path / "step=3.ckpt") == 3


def test_write_atomically_passes_other_errors_on(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", write)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is before
