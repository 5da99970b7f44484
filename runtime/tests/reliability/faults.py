"""Faults in the calls a save makes: fail or kill at the n-th, or record them and cut the power."""

from __future__ import annotations

import builtins
import io
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = ("replace", "link", "symlink", "fsync", "unlink", "mkdir")


class FaultyCalls:
    """While entered, the `number`-th opening, write, fsync, rename, link, unlink or mkdir fails.

    `action` is an errno, or "kill". Counts calls of this process only.
    """

    def __init__(self, number: int, action: Any) -> None:
        self.number, self.action, self.count = number, action, 0
        self.fired = False
        self._name: str | None = None
        self._originals: dict[str, Any] = {}

    def fail_file(self, name: str) -> None:
        """Fail each write to this file instead."""
        self._name = name

    def __enter__(self) -> FaultyCalls:
        self._originals = {name: getattr(os, name) for name in CALLS}
        for name, call in self._originals.items():
            setattr(os, name, self._counted(call))
        self._open = builtins.open
        builtins.open = self._opened  # type: ignore[assignment]
        return self

    def __exit__(self, *exception: object) -> None:
        for name, call in self._originals.items():
            setattr(os, name, call)
        builtins.open = self._open

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self._strike()
            return call(*args, **kwargs)

        return counting

    def _strike(self, name: str = "") -> None:
        self.count += 1
        if self.count != self.number and not (self._name and self._name in name):
            return
        self.fired = True
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.action, os.strerror(self.action))

    def _opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not any(letter in mode for letter in "wax+") or not str(file).endswith(".partial"):
            return self._open(file, mode, *args, **kwargs)
        self._strike()
        raw = io.FileIO(file, mode.replace("b", ""))
        return io.BufferedWriter(_Raw(raw, lambda: self._strike(str(file))), 512)


class _Raw(io.RawIOBase):
    """Each write reaches `strike` first."""

    def __init__(self, raw: io.FileIO, strike: Callable[[], None]) -> None:
        self._raw, self._strike = raw, strike

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._strike()
        return self._raw.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


def crash_states(folder: Path, save: Callable[[], None]) -> Iterator[Path]:
    """Every state a power cut may leave: after each call, with what was not synced kept or lost.

    A file's data that was not synced may be gone (empty) or half there; a rename that was not synced may
    not have happened. The last states are those after the save returned.
    """
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    log = _record(folder, save)
    place = folder.parent / f"{folder.name}-crash"
    for length in range(len(log) + 1):
        for keep_data, keep_names in itertools.product(("all", "half", "none"), (True, False)):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for name, data in _replay(before, log[:length], keep_data, keep_names).items():
                (place / name).write_bytes(data)
            yield place


def _record(folder: Path, save: Callable[[], None]) -> list[tuple[str, ...]]:
    log: list[Any] = []
    sync, replace, opened = os.fsync, os.replace, builtins.open

    def recording_sync(descriptor: int) -> None:
        sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        log.append(("names",) if path == folder.resolve() else ("data", path.name))

    def recording_replace(source: Any, target: Any) -> None:
        log.append(("write", Path(source).name, Path(source).read_bytes()))
        replace(source, target)
        log.append(("rename", Path(source).name, Path(target).name))

    def recording_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode or "x" in mode:
            log.append(("create", Path(file).name))
        return opened(file, mode, *args, **kwargs)

    os.fsync, os.replace, builtins.open = recording_sync, recording_replace, recording_open  # type: ignore[assignment]
    try:
        save()
    finally:
        os.fsync, os.replace, builtins.open = sync, replace, opened
    final = {entry[1]: entry[2] for entry in log if entry[0] == "write"}
    for file in folder.iterdir():
        final.setdefault(file.name, file.read_bytes())
    return [
        ("write", entry[1], final.get(entry[1], b"")) if entry[0] == "create" else entry
        for entry in log
        if entry[0] != "write"
    ]


def _replay(
    before: dict[str, bytes], log: list[Any], keep_data: str, keep_names: bool
) -> dict[str, bytes]:
    """The folder after these calls and a power cut."""
    contents = {name: (data, True) for name, data in before.items()}  # (data, safe)
    names = dict.fromkeys(before, None)
    files: dict[str, Any] = dict(contents)
    durable = dict(contents)
    for entry in log:
        if entry[0] == "write":
            files[entry[1]] = (entry[2], False)
            if entry[1] in durable:  # written in place
                durable[entry[1]] = files[entry[1]]
        elif entry[0] == "data":
            for table in (files, durable):
                if entry[1] in table:
                    table[entry[1]] = (files[entry[1]][0], True)
        elif entry[0] == "rename":
            files[entry[2]] = files.pop(entry[1])
        elif entry[0] == "names":
            durable = dict(files)
    del names
    chosen = (
        files
        if keep_names
        else {k: files.get(k, v) if v == files.get(k) else v for k, v in durable.items()}
    )
    cut = {"all": lambda d: d, "half": lambda d: d[: len(d) // 2], "none": lambda d: b""}[keep_data]
    return {name: data if safe else cut(data) for name, (data, safe) in chosen.items()}
