"""Trees of files in memory, and how they are read and written."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE


@dataclass(frozen=True)
class File:
    data: bytes
    executable: bool = False
    permissions: int | None = field(default=None, compare=False)  # all bits, as on the disk

    @property
    def hash(self) -> str:
        return sha256(self.data).hexdigest()

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644


class Odd(Enum):
    """Something at a path that is not a regular file inside the project."""

    LINK = "a link"
    FOLDER = "a folder"
    SPECIAL = "not a regular file"  # reading a pipe would block
    BLOCKED = "behind a link or a file"


Found = File | Odd | None
Tree = Mapping[str, File]  # by path from the project's root, always with `/`


def read_tree(root: Path) -> dict[str, File]:
    """Every file below `root`, in sorted order; links are not followed."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink():
                continue
            executable = bool(path.stat().st_mode & 0o100)
            found[path.relative_to(root).as_posix()] = File(path.read_bytes(), executable)
    return found


def write_tree(tree: Tree, root: Path) -> None:
    """Write into a folder that no one else uses; the project itself is written by `journal`."""
    for path, file in tree.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.data)
        place.chmod(file.mode)


class Disk:
    """The user's files: each is read once, and never through a link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[str, Found] = {}

    def get(self, path: str) -> Found:
        if path not in self.seen:
            self.seen[path] = self._look(path)
        return self.seen[path]

    def without(self, path: str, changes: Mapping[str, File | None]) -> Found:
        """What is at `path` after the deletions in `changes`, which also remove folders they empty."""
        found = self.get(path)
        if found is not Odd.BLOCKED and found is not Odd.FOLDER:
            return found
        gone = {path for path, file in changes.items() if file is None}
        if found is Odd.BLOCKED:
            return None if self.blocker(path) in gone else found
        if not gone:
            return found
        held = (file for file in (self.root / path).rglob("*") if not file.is_dir())
        left = any(file.relative_to(self.root).as_posix() not in gone for file in held)
        return found if left else None

    def _look(self, path: str) -> Found:
        place = self.root / path
        if self.blocker(path):
            return Odd.BLOCKED
        if place.is_symlink():
            return Odd.LINK
        if place.is_dir():
            return Odd.FOLDER
        if not place.exists():
            return None
        if not place.is_file():
            return Odd.SPECIAL
        mode = S_IMODE(place.stat().st_mode)
        return File(place.read_bytes(), bool(mode & 0o100), mode)

    def blocker(self, path: str) -> str:
        """The parent of `path` that is a link or a file instead of a folder; empty if there is none."""
        for parent in reversed(Path(path).parents[:-1]):
            if (self.root / parent).is_symlink() or (self.root / parent).is_file():
                return parent.as_posix()
        return ""
