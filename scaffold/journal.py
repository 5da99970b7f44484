"""Writes a set of files as one change: if killed at any moment, the next command rolls it back.

Before the first file of the project is touched, the whole change is in `.scaffold/work/journal.json`:
the content of each file before and after. When all files are written, the journal is renamed to
`undo.json`, which `scaffold undo` reads.
"""

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Any

from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File
from scaffold.lock import is_safe

WORK = Path(".scaffold", "work")


@dataclass(frozen=True)
class Change:
    path: str
    before: File | None
    after: File | None


@contextmanager
def alone(root: Path, *, dry_run: bool = False) -> Iterator[None]:
    """Allow one command at a time in this project, and roll back what an interrupted one left."""
    work = root / WORK
    if dry_run:
        check_whole(root)
        yield
        return
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "wb") as held:
        try:
            hold(held.fileno())  # without support for locks, the journal alone must do
        except OSError:
            raise ScaffoldError("another `scaffold` is running here, try again") from None
        recover(root)
        yield


def check_whole(root: Path) -> None:
    """For commands that only read: refuse a project in which a change was interrupted."""
    if (root / WORK / "journal.json").exists():
        raise ScaffoldError("a change was interrupted\n`scaffold resolve` rolls it back")


def hold(descriptor: int) -> bool:
    """Lock a file until it is closed or this process ends; False if locks are not supported.

    Raises:
        OSError: if another process holds it.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: held by another
        raise
    except (ImportError, OSError):  # Windows; a file system such as Lustre without `-o flock`
        return False
    return True


def write(root: Path, wanted: Mapping[str, File | None], seen: Disk) -> None:
    """Write all of `wanted` (None deletes) or nothing, deletions first; `seen` are the files it was planned from."""
    changes = sorted(_changes(wanted, seen, Disk(root)), key=lambda each: each.after is not None)
    if not changes:
        return
    journal = root / WORK / "journal.json"
    os.replace(_aside(root, journal, File(_packed(changes))), journal)
    try:
        for change in changes:
            _put(root, change)
    except BaseException:
        recover(root)
        raise
    os.replace(journal, root / WORK / "undo.json")


def recover(root: Path) -> None:
    """Roll back an interrupted change; files that were edited since stay as they are."""
    journal = root / WORK / "journal.json"
    if not journal.exists():
        return
    disk = Disk(root)
    for change in reversed(_unpacked(journal.read_bytes())):
        if disk.get(change.path) == change.after:
            with suppress(ScaffoldError):
                _put(root, Change(change.path, change.after, change.before))
    journal.unlink()


def last_change(root: Path) -> list[Change]:
    undo = root / WORK / "undo.json"
    return _unpacked(undo.read_bytes()) if undo.exists() else []


def _changes(wanted: Mapping[str, File | None], seen: Disk, now: Disk) -> Iterator[Change]:
    for path, file in wanted.items():
        before = seen.without(path, wanted)
        if before != now.without(path, wanted) or not (before is None or isinstance(before, File)):
            raise _meanwhile(path)
        if before != file:
            yield Change(path, before, file)


def _meanwhile(path: str) -> ScaffoldError:
    return ScaffoldError(f"`{path}` was changed in the meantime; nothing was written, try again")


def _put(root: Path, change: Change) -> None:
    """Make one change, atomically: the file is written aside, then renamed into place."""
    place = root / change.path
    aside = _aside(root, place, change.after) if change.after else None
    now = Disk(root).get(change.path)  # read again, since an editor may save at any time
    if now == change.after:
        return
    if now != change.before:
        raise _meanwhile(change.path)
    if aside:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, place)
        return
    place.unlink()
    with suppress(OSError):  # stops at the first folder that is not empty
        for parent in place.relative_to(root).parents[:-1]:
            (root / parent).rmdir()


def _aside(root: Path, place: Path, file: File) -> Path:
    """Write a file completely, to be renamed into its place."""
    aside = root / WORK / "aside"
    with open(aside, "wb") as out:
        out.write(file.data)
        out.flush()
        os.fsync(out.fileno())
    aside.chmod(_mode(place, file))
    return aside


def _mode(place: Path, file: File) -> int:
    """Permissions as they are or were; a change only decides whether the file is executable."""
    mode = S_IMODE(place.stat().st_mode) if place.exists() else file.permissions
    if mode is None:
        return file.mode
    runs = mode | (mode & 0o444) >> 2 if file.executable else mode & ~0o111
    return mode if bool(mode & 0o100) == file.executable else runs


def _packed(changes: Sequence[Change]) -> bytes:
    rows = [[each.path, _as_json(each.before), _as_json(each.after)] for each in changes]
    return json.dumps(rows).encode()


def _unpacked(data: bytes) -> list[Change]:
    """Validated, since a cloned repository may contain such a file."""
    try:
        rows = [(str(path), _as_file(old), _as_file(new)) for path, old, new in json.loads(data)]
    except (ValueError, TypeError, LookupError):
        raise ScaffoldError(
            f"the journal in `{WORK.as_posix()}/` is damaged\n"
            "check `git diff`, then delete that folder"
        ) from None
    if foreign := [path for path, _, _ in rows if not is_safe(path.removeprefix(".scaffold/"))]:
        raise ScaffoldError(f"the journal in `{WORK.as_posix()}/` names {foreign[0]!r}; delete it")
    return [Change(*row) for row in rows]


def _as_json(file: File | None) -> list[Any] | None:
    return [file.executable, b64encode(file.data).decode(), file.permissions] if file else None


def _as_file(row: list[Any] | None) -> File | None:
    if not row:
        return None
    runs, data, bits = row
    return File(b64decode(data), bool(runs), bits and int(bits) & 0o777)
