"""Make the lock anew, after a merge of two branches or an edit by hand."""

from collections import Counter
from pathlib import Path

from scaffold.answers import Answers, from_yaml
from scaffold.catalogue import Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File
from scaffold.lock import locked
from scaffold.plan import Plan
from scaffold.project import ANSWERS, state_files
from scaffold.render import render
from scaffold.transition import Proposal


def rebuild(root: Path, catalogue: Catalogue) -> Proposal:
    """The lock as the answers give it; the answers as both branches had them."""
    disk = Disk(root)
    answers = _answers(disk)
    if answers.version != catalogue.version:
        raise ScaffoldError(
            f"the lock is of version {answers.version}, this is {catalogue.version}\n"
            f'rebuild with that one: pip install "torch-scaffold=={answers.version}"'
        )
    target, plan = render(answers, catalogue), Plan()
    for path, file in target.items():
        now = disk.get(path)
        if isinstance(now, File) and _both(now.data) != now.data:
            _repair(plan, path, now, file)
        elif now is None:
            plan.changes[path] = file
            plan.said.append((path, "create", ""))
    return Proposal(root, plan, disk, state_files(answers, locked(target)))


def _answers(disk: Disk) -> Answers:
    found = disk.get(ANSWERS)
    if not isinstance(found, File):
        raise ScaffoldError(f"there is no `{ANSWERS}`, take it from git")
    return from_yaml(_both(found.data))


def _repair(plan: Plan, path: str, now: File, file: File) -> None:
    """A file that git left in conflict: mended where both sides together are what is generated."""
    if Counter(_both(now.data).splitlines()) == Counter(file.data.splitlines()):
        plan.changes[path] = file
        plan.said.append((path, "merge", "both branches"))
    else:
        plan.said.append((path, "keep", "git's conflict markers are yours to edit"))


def _both(data: bytes) -> bytes:
    """The text with both sides of each of git's conflicts, once each, without the base."""
    lines: list[bytes] = []
    side = b""
    for line in data.splitlines(keepends=True):
        mark = line[:7]
        if mark in (b"<" * 7, b"|" * 7, b">" * 7) or (side and line.strip() == b"=" * 7):
            side = b"" if mark == b">" * 7 else mark
        elif side != b"|" * 7:
            lines.append(line)
    return b"".join(lines)
