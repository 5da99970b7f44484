"""A new project: rendered beside its place, then moved there by one rename."""

import os
import shutil
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
    """All of it or nothing: what fails half-way leaves no trace."""
    staging = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_tree(tree, staging)
        staging.chmod(0o777 & ~_umask())
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
