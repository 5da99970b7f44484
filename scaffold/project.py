"""A project on disk: its root, answers and lock."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from scaffold.answers import Answers, from_yaml, to_yaml
from scaffold.errors import NotAProjectError, ScaffoldError
from scaffold.files import Disk, File, Tree
from scaffold.lock import Lock, from_json, to_json
from scaffold.names import public
from scaffold.trained import trained

ANSWERS, LOCK = ".scaffold/answers.yml", ".scaffold/lock.json"
FOR_GIT = {
    ".scaffold/.gitignore": File(b"/work/\n"),
    ".scaffold/.gitattributes": File(b"lock.json -diff linguist-generated\n"),
}


@dataclass(frozen=True)
class Project:
    root: Path
    answers: Answers
    lock: Lock
    damaged: Mapping[str, str] = field(
        default_factory=dict
    )  # damaged entries, with their recorded hash

    def check_has_features(self) -> None:
        if self.answers.template:
            raise ScaffoldError(
                f"the project uses its own template, {public(self.answers.template)}, "
                "which has no features"
            )


def find_root(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / ANSWERS).is_file():
            return folder
        if (folder / LOCK).is_file():
            raise ScaffoldError(f"`{ANSWERS}` is missing in {folder}\nrestore it from git")
    raise NotAProjectError(
        f"no project here: {start} and the folders above have no `{ANSWERS}`\n"
        "create one with `scaffold new my-exp`"
    )


def check_plain(root: Path) -> None:
    """Refuse state files that are links: nothing is written through a link, out of the project."""
    for path in (".scaffold", ANSWERS, LOCK):
        if (root / path).is_symlink():
            raise ScaffoldError(
                f"`{path}` is a link, which is never written through\n"
                "replace it by what it points to"
            )


def open_project(root: Path) -> Project:
    answers = replace(from_yaml(_read(root / ANSWERS)), trained=trained(root))
    lock, damaged = from_json(_read(root / LOCK))
    return Project(root, answers, lock, damaged)


def state_files(answers: Answers, lock: Lock, disk: Disk | None = None) -> Tree:
    """The files in `.scaffold/`, the lock last; existing ones for git stay, as the user may have edited them."""
    missing = {path: file for path, file in FOR_GIT.items() if not (disk and disk.get(path))}
    state = {ANSWERS: File(to_yaml(answers)), LOCK: File(to_json(lock, answers.version))}
    return {**missing, **state}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ScaffoldError(
            f"`.scaffold/{path.name}` cannot be read\n"
            "restore it from git, or rebuild it with `scaffold doctor --rebuild`"
        ) from None
