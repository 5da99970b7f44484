"""A new project: rendered beside its place, then moved there by one rename."""

import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp

from scaffold.answers import Answers
from scaffold.catalogue import Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Tree, write_tree
from scaffold.lock import locked
from scaffold.names import check_name
from scaffold.project import state_files
from scaffold.render import render

STAGING = ".scaffold-new-"
DAY = 24 * 60 * 60


def plan_new(answers: Answers, catalogue: Catalogue) -> Tree:
    """Every file of the new project, nothing written yet."""
    tree = render(answers, catalogue)
    return {**tree, **state_files(answers, locked(tree))}


def check_target(name: str, target: Path) -> None:
    check_name(name)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ScaffoldError(f"`{target.name}` exists here and is not a folder; choose another name")
    if target.is_dir() and any(target.iterdir()):
        raise ScaffoldError(f"`{target.name}` exists and is not empty; choose another name")
    if not os.access(target.parent, os.W_OK):
        raise ScaffoldError(f"cannot write in {target.parent}: it is read-only for you")


def write_new(tree: Tree, target: Path) -> None:
    """All of it or nothing: what fails half-way leaves no trace, what is killed none for long."""
    sweep(target.parent)
    staging = Path(mkdtemp(prefix=STAGING, dir=target.parent))
    held = _hold(staging)
    try:
        write_tree(tree, staging)
        staging.chmod(0o777 & ~_umask())
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        if held is not None:
            os.close(held)


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
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
