"""A change is complete or absent, even if killed at any call that touches the disk."""

import errno
import fcntl
import os
import pathlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scaffold import journal
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File, read_tree

MUTATING = ("replace", "unlink", "rmdir", "mkdir", "fsync", "chmod", "open")
BEFORE = {"edit.txt": File(b"old"), "gone/deep/x.txt": File(b"x"), "mode.sh": File(b"run")}
WANTED = {
    "edit.txt": File(b"new"),
    "gone/deep/x.txt": None,
    "new/place.txt": File(b"here"),
    "mode.sh": File(b"run", executable=True),
    ".scaffold/lock.json": File(b"lock"),
}
AFTER = {path: file for path, file in WANTED.items() if file}


@pytest.fixture
def root(workplace: Path) -> Path:
    for path, file in BEFORE.items():
        (workplace / path).parent.mkdir(parents=True, exist_ok=True)
        (workplace / path).write_bytes(file.data)
    (workplace / "mine.txt").write_bytes(b"mine")
    return workplace


def tree(root: Path) -> dict[str, File]:
    files = read_tree(root)
    assert files.pop("mine.txt") == File(b"mine")
    return {path: file for path, file in files.items() if not path.startswith(".scaffold/work")}


def change(root: Path) -> None:
    with journal.alone(root):
        journal.write(root, WANTED, Disk(root))


def recovered(root: Path) -> None:
    with journal.alone(root):
        pass


def killed_at(call: int, when: str, action: Callable[[Path], None], root: Path) -> bool:
    """Run `action` in a child that is killed at its n-th mutating call; False if it lived."""
    child = os.fork()
    if child == 0:
        calls = iter(range(1, 10_000))
        # Python 3.10 keeps what `os` had at import.
        bound = getattr(pathlib, "_normal_accessor", os)
        for name in MUTATING:
            setattr(os, name, _deadly(getattr(os, name), calls, call, when))
            if name != "open":  # there it is io.open
                setattr(bound, name, getattr(os, name))
        action(root)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _deadly(function, calls, call, when):
    def wrapper(*args, **kwargs):
        now = next(calls) == call
        if now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return function(*args, **kwargs)
        finally:
            if now:
                os.kill(os.getpid(), signal.SIGKILL)

    return wrapper


def test_a_change_is_written(root):
    change(root)
    assert tree(root) == AFTER
    assert not (root / "gone").exists()


@pytest.mark.parametrize(
    ("mode", "runs", "becomes"),
    [(0o600, True, 0o700), (0o640, True, 0o750), (0o750, False, 0o640), (0o700, True, 0o700)],
)
def test_what_can_be_run_changes_no_other_permission(root, mode, runs, becomes):
    (root / "mode.sh").chmod(mode)
    with journal.alone(root):
        journal.write(root, {"mode.sh": File(b"new", executable=runs)}, Disk(root))
    assert (root / "mode.sh").stat().st_mode & 0o777 == becomes


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_call_the_next_command_takes_it_back(root, when):
    call, ends = 1, []
    while killed_at(call, when, change, root):
        recovered(root)
        ends.append(tree(root))
        if ends[-1] == AFTER:  # start the next round from the beginning
            journal.write(
                root, {each.path: each.before for each in journal.last_change(root)}, Disk(root)
            )
        call += 1
    assert len(ends) >= 20
    assert ends.count(BEFORE) >= 20
    assert all(end in (BEFORE, AFTER) for end in ends)


@pytest.mark.parametrize("when", ["before", "after"])
def test_taking_back_may_itself_be_killed(root, when):
    half_way = 16
    call = 1
    assert killed_at(half_way, when, change, root)
    assert tree(root) not in (BEFORE, AFTER)
    while killed_at(call, when, recovered, root):
        call += 1
    assert call >= 5
    assert tree(root) == BEFORE


def test_an_error_half_way_takes_it_back(root, monkeypatch):
    put = journal._put

    def full(root, change):
        if change.path == "new/place.txt" and change.after:
            raise OSError(28, "No space left on device")
        put(root, change)

    monkeypatch.setattr(journal, "_put", full)
    with pytest.raises(OSError, match="No space"):
        change(root)
    assert tree(root) == BEFORE


def test_what_was_saved_meanwhile_is_not_overwritten(root):
    seen = Disk(root)
    seen.get("edit.txt")
    (root / "edit.txt").write_bytes(b"saved by an editor")
    (root / ".scaffold/work").mkdir(parents=True)
    with pytest.raises(ScaffoldError, match=r"`edit.txt` was changed in the meantime"):
        journal.write(root, WANTED, seen)
    assert (root / "edit.txt").read_bytes() == b"saved by an editor"
    assert not (root / "new").exists()


@pytest.mark.parametrize("path", ["edit.txt", "gone/deep/x.txt", "new/place.txt", "mode.sh"])
def test_what_is_saved_while_it_writes_is_not_overwritten(root, monkeypatch, path):
    """Saved after all files were read, while the journal is being written."""
    sync, saved = os.fsync, File(b"saved by an editor")

    def save(descriptor):
        monkeypatch.setattr(os, "fsync", sync)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(saved.data)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", save)
    with pytest.raises(ScaffoldError, match=rf"`{path}` was changed in the meantime; nothing was"):
        change(root)
    assert tree(root) == {**BEFORE, path: saved}
    change(root)
    assert tree(root) == AFTER
    assert saved in [each.before for each in journal.last_change(root)]


def test_what_is_saved_while_it_takes_back_is_not_overwritten(root, monkeypatch):
    assert killed_at(16, "after", change, root)
    sync = os.fsync

    def save(descriptor):
        if (root / ".scaffold/work/aside").read_bytes() == b"old":
            (root / "edit.txt").write_bytes(b"saved by an editor")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", save)
    recovered(root)
    assert tree(root) == {**BEFORE, "edit.txt": File(b"saved by an editor")}


def test_taking_back_leaves_what_was_edited_after_the_crash(root):
    assert killed_at(16, "after", change, root)
    assert (root / "edit.txt").read_bytes() == b"new"
    (root / "edit.txt").write_bytes(b"edited after the crash")
    with journal.alone(root):
        assert (root / "edit.txt").read_bytes() == b"edited after the crash"


def test_two_commands_do_not_meet(root):
    with journal.alone(root), pytest.raises(ScaffoldError, match="another `scaffold`"):
        change(root)


NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK]  # Lustre without `-o flock`, some NFS


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_there_are_no_locks_it_goes_on_without(root, monkeypatch, number):
    without_locks(monkeypatch, number)
    change(root)
    assert tree(root) == AFTER


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_only_a_lock_that_another_has_is_another_at_work(root, monkeypatch, number):
    without_locks(monkeypatch, number)
    with pytest.raises(ScaffoldError, match="another `scaffold`"):
        change(root)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_new_project_where_there_are_no_locks(scaffold, workplace, monkeypatch, number):
    (workplace / ".scaffold-new-other").mkdir()  # who knows whether it is alive
    without_locks(monkeypatch, number)
    assert scaffold("new", "my-exp", "--no-git").code == 0
    assert sorted(os.listdir(workplace)) == [".scaffold-new-other", "my-exp"]
    monkeypatch.chdir("my-exp")
    assert scaffold("add", "callback", "ema").code == 0
