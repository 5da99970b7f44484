"""The Python package of the project, which the user may have renamed."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File, Tree
from scaffold.lock import Entry, Lock
from scaffold.plan import Plan
from scaffold.project import Project

# `add module` and `add datamodule`: folder of the config in `configs/`, and of the code in the package
SECOND = {"module": ("model", "models"), "datamodule": ("data", "datamodules")}


def is_second(path: str, disk: Disk) -> bool:
    """Whether `add module` or `add datamodule` created it, as a copy of the first one."""
    file = Path(path)
    return any(
        file.parent.name == folder and disk.get(f"configs/{part}/{file.stem}.yaml")
        for part, folder in SECOND.values()
    )


def is_gone(project: Project) -> bool:
    package = project.answers.package
    generated = any(path.startswith(f"{package}/") for path in project.lock)
    return generated and not (project.root / package).is_dir()


def check_package(project: Project, plan: Plan) -> None:
    """Refuse to create a second package beside the one that the user renamed."""
    package = project.answers.package
    starts = any(file and path.startswith(f"{package}/") for path, file in plan.changes.items())
    if starts and is_gone(project):
        raise ScaffoldError(
            f"`{package}/` no longer exists, and this would start a second package\n"
            "if you renamed it, set `name:` in `.scaffold/answers.yml`, then run `scaffold update`"
        )


def renamed(base: Lock, target: Tree, disk: Disk, package: str) -> Lock:
    """The base under the package's new name, if `name:` in the answers was edited."""
    old = _old_name(base, target, package)
    if not old:
        return base
    if not (disk.root / package).is_dir():
        raise ScaffoldError(
            f"`.scaffold/answers.yml` names the package `{package}`, but there is no such folder\n"
            f"rename `{old}/` to that, in your imports too, or restore `name:`"
        )
    word = re.compile(rb"\b%s\b" % re.escape(old.encode()))
    found = {}
    for path, entry in base.items():
        place = package + path.removeprefix(old) if path.startswith(f"{old}/") else path
        found[place] = _reworded(disk, place, entry, word, package)
    return found


def _old_name(base: Lock, target: Tree, package: str) -> str:
    """The package's folder in the base; empty if it has not been renamed."""
    inside = {path.partition("/")[2] for path in target if path.startswith(f"{package}/")}
    if any(path.startswith(f"{package}/") for path in base):
        return ""
    there = {path.partition("/")[0] for path in target}
    parts = (path.partition("/") for path in base)
    folders = Counter(top for top, _, rest in parts if rest in inside and top not in there)
    return folders.most_common(1)[0][0] if folders else ""


def _reworded(disk: Disk, path: str, entry: Entry, old: re.Pattern[bytes], package: str) -> Entry:
    """Replace the old name in the base, if the user did in the file: then it does not count as an edit."""
    user = disk.get(path)
    if not isinstance(user, File) or old.search(user.data):
        return entry
    data = old.sub(package.encode(), entry.file.data)
    return replace(entry, file=replace(entry.file, data=data))
