"""A new project: rendered beside its place, then moved there by one rename."""

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp

from scaffold.answers import Answers
from scaffold.catalogue import Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, Tree, write_tree
from scaffold.journal import WORK, alone, hold, write
from scaffold.lock import Entry, locked
from scaffold.names import one_line
from scaffold.project import LOCK, state_files
from scaffold.render import digest, render
from scaffold.runtime import requirements

BEGINNING = re.compile(r"(?i)\.git(ignore|attributes)|(readme|licen[cs]e|copying)(\.\w+)?")
BESIDE = {".git", ".venv", "venv", ".DS_Store"}  # of other tools: they stay as they are
STAGING = ".scaffold-new-"
DAY = 24 * 60 * 60


def plan_new(answers: Answers, catalogue: Catalogue, kept: Iterable[str] = ()) -> Tree:
    """Every file of the new project, nothing written yet; `kept` are the user's own in its place."""
    tree = render(answers, catalogue)
    own = {path: Entry(tree[path], "ejected") for path in kept if path in tree}
    answers = replace(answers, templates=digest(catalogue, answers.runtime))
    state = state_files(answers, {**locked(tree), **own})
    return {**{path: file for path, file in tree.items() if path not in own}, **state}


def needs_install(answers: Answers, catalogue: Catalogue) -> bool:
    """Whether the environment of this command lacks a package that the project needs."""
    parts = answers.parts(catalogue)
    needed = [
        line for part in parts for line in (*requirements(answers.runtime), *part.requirements)
    ]
    for line in needed:
        try:
            version(re.split(r"[^\w.-]", line)[0])
        except PackageNotFoundError:
            return True
    return False


def check_target(target: Path) -> list[str]:
    """What is there already and stays: the files that a repository begins with."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ScaffoldError(f"`{target.name}` exists and is not a folder; choose another name")
    place = target if target.is_dir() else target.parent
    if not os.access(place, os.W_OK):
        raise ScaffoldError(f"cannot write to {place}: you have no write permission")
    found = {path.name for path in target.iterdir()} - BESIDE if target.is_dir() else set()
    if others := sorted(each for each in found if not _begins(target / each)):
        raise ScaffoldError(
            f"`{target.name}` exists and is not empty: `{one_line(others[0])}`; choose another name"
        )
    return sorted(found)


def _begins(path: Path) -> bool:
    """GitHub and others make these for a new repository."""
    return path.is_file() and not path.is_symlink() and bool(BEGINNING.fullmatch(path.name))


def write_new(tree: Tree, target: Path) -> None:
    """All of it or nothing: what fails half-way leaves no trace, what is killed none for long."""
    if target.is_dir():
        return _write_into(tree, target)
    sweep(target.parent)
    staging = Path(mkdtemp(prefix=STAGING, dir=target.parent))
    held = None
    try:
        held = _hold(staging)
        write_tree(tree, staging)
        staging.chmod(0o777 & ~_umask())
        os.replace(staging, target)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError) and target.exists():  # and holds something
            raise ScaffoldError(
                f"`{target.name}` was created in the meantime; nothing was written"
            ) from None
        raise
    finally:
        if held is not None:
            os.close(held)
    return None


def _write_into(tree: Tree, target: Path) -> None:
    """Beside what is there, by a journal: a folder that is used has no other name to be written under."""
    if (target / LOCK).exists():
        raise ScaffoldError(f"`{target.name}` has become a project; nothing was written")
    seen = Disk(target)
    seen.seen.update(dict.fromkeys(tree))  # none of it was there when the user was asked
    with alone(target):
        try:
            write(target, tree, seen)
        finally:
            shutil.rmtree(target / WORK, ignore_errors=True)  # nothing to undo: it begins here
            with suppress(OSError):
                (target / WORK).parent.rmdir()


def clear(target: Path) -> None:
    """Take back what a killed `scaffold new` left in the folder where it was to write."""
    if (target / WORK).is_dir() and not (target / LOCK).exists():
        _write_into({}, target)


def sweep(folder: Path) -> None:
    """Delete what a killed `scaffold new` left in this folder."""
    for path in folder.glob(f"{STAGING}*"):
        if path.is_dir() and not path.is_symlink() and _is_left(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Nobody holds it any more; where that cannot be told, it is a day old."""
    try:
        held = _hold(path)
    except OSError:
        return False
    if held is None:
        return time.time() - path.stat().st_mtime > DAY
    os.close(held)
    return True


def _hold(folder: Path) -> int | None:
    """Lock it until the descriptor is closed or this process ends; None where there are no locks.

    Raises:
        OSError: if another process holds it.
    """
    if os.name == "nt":  # where a folder cannot be opened
        return None
    descriptor, held = os.open(folder, os.O_RDONLY), False
    try:
        held = hold(descriptor)
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
