"""A new project: written to a folder beside the target, which is then renamed."""

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
BESIDE = {".git", ".venv", "venv", ".DS_Store"}  # of other tools: left alone
STAGING = ".scaffold-new-"
DAY = 24 * 60 * 60


def plan_new(answers: Answers, catalogue: Catalogue, kept: Iterable[str] = ()) -> Tree:
    """Every file of the new project, not yet written; `kept` are existing files of the user, which stay."""
    tree = render(answers, catalogue)
    own = {path: Entry(tree[path], "ejected") for path in kept if path in tree}
    answers = replace(answers, templates=digest(answers, catalogue))
    state = state_files(answers, {**locked(tree), **own})
    return {**{path: file for path, file in tree.items() if path not in own}, **state}


def needs_install(answers: Answers, catalogue: Catalogue) -> bool:
    """Whether the current environment lacks a package that the project needs."""
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
    """The existing files that stay: those that a new repository starts with. Anything else is an error."""
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
    """Whether it is a file that GitHub and others create in a new repository, such as a README."""
    return path.is_file() and not path.is_symlink() and bool(BEGINNING.fullmatch(path.name))


def write_new(tree: Tree, target: Path) -> None:
    """Write all or nothing: a failure leaves no trace; after a kill, the next `new` cleans up (`sweep`)."""
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
        if isinstance(error, OSError) and target.exists():  # and is not empty
            raise ScaffoldError(
                f"`{target.name}` was created in the meantime; nothing was written"
            ) from None
        raise
    finally:
        if held is not None:
            os.close(held)
    return None


def _write_into(tree: Tree, target: Path) -> None:
    """Write into an existing folder, through the journal, since it cannot be replaced by a rename."""
    if (target / LOCK).exists():
        raise ScaffoldError(f"`{target.name}` has become a project; nothing was written")
    seen = Disk(target)
    seen.seen.update(dict.fromkeys(tree))  # none of these existed when the plan was made
    with alone(target):
        try:
            write(target, tree, seen)
        finally:
            shutil.rmtree(target / WORK, ignore_errors=True)  # there is nothing to undo before this
            with suppress(OSError):
                (target / WORK).parent.rmdir()


def clear(target: Path) -> None:
    """Roll back what a killed `scaffold new` left in the existing folder it wrote into."""
    if (target / WORK).is_dir() and not (target / LOCK).exists():
        _write_into({}, target)


def sweep(folder: Path) -> None:
    """Delete staging folders that a killed `scaffold new` left in this folder."""
    for path in folder.glob(f"{STAGING}*"):
        if path.is_dir() and not path.is_symlink() and _is_left(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Whether no process holds its lock any more or, without locks, whether it is a day old."""
    try:
        held = _hold(path)
    except OSError:
        return False
    if held is None:
        return time.time() - path.stat().st_mtime > DAY
    os.close(held)
    return True


def _hold(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends; None if locks are not supported.

    Raises:
        OSError: if another process holds it.
    """
    if os.name == "nt":  # Windows cannot open a folder
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
