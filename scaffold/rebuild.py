"""Make the lock anew, after a merge of two branches or an edit by hand.

Where git still knows both sides of a conflict, answers are merged as sets of features, and a generated
file that neither branch edited is simply generated again.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from scaffold.answers import Answers, from_yaml
from scaffold.catalogue import KINDS, Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File
from scaffold.git import git
from scaffold.lock import Lock, from_json, locked
from scaffold.plan import Plan
from scaffold.project import ANSWERS, LOCK, state_files
from scaffold.render import render
from scaffold.transition import Proposal


@dataclass(frozen=True)
class Sides:
    """The versions of a file that git holds while it is in conflict."""

    base: bytes | None
    ours: bytes
    theirs: bytes


def rebuild(root: Path, catalogue: Catalogue) -> Proposal:
    """The lock as the answers give it; the answers as both branches meant them."""
    disk = Disk(root)
    answers = _answers(disk)
    if answers.version != catalogue.version:
        raise ScaffoldError(
            f"the lock is of version {answers.version}, this is {catalogue.version}\n"
            f'rebuild with that one: pip install "torch-scaffold=={answers.version}"'
        )
    target, plan = render(answers, catalogue), Plan()
    locks = _locks(root)
    for path, file in target.items():
        now = disk.get(path)
        if now is None:
            plan.changes[path] = file
            plan.said.append((path, "create", ""))
        elif isinstance(now, File) and b"\n<<<<<<< " in b"\n" + now.data:
            _repair(plan, path, file, sides(root, path), locks)
    return Proposal(root, plan, disk, state_files(answers, locked(target)))


def sides(root: Path, path: str) -> Sides | None:
    shown = [git("show", f":{stage}:./{path}", inside=root) for stage in (1, 2, 3)]
    base, ours, theirs = (done.stdout if done and not done.returncode else None for done in shown)
    return None if ours is None or theirs is None else Sides(base, ours, theirs)


def _answers(disk: Disk) -> Answers:
    both = sides(disk.root, ANSWERS)
    if both:
        ours, theirs = from_yaml(both.ours), from_yaml(both.theirs)
        base = from_yaml(both.base) if both.base else replace(ours, features={})
        return _merged(base, ours, theirs)
    found = disk.get(ANSWERS)
    if not isinstance(found, File):
        raise ScaffoldError(f"there is no `{ANSWERS}`, take it from git")
    return from_yaml(found.data)


def _merged(base: Answers, ours: Answers, theirs: Answers) -> Answers:
    """Switched on by either branch, and off by none."""
    if ours.version != theirs.version:
        raise ScaffoldError(
            f"the branches are of versions {ours.version} and {theirs.version}\n"
            "run `scaffold update` on the older one before merging"
        )
    features = {}
    for kind in KINDS:
        before, one, other = set(base.on(kind)), set(ours.on(kind)), set(theirs.on(kind))
        features[kind] = tuple(sorted((one | other) - (before - one) - (before - other)))
    return replace(ours, features=features)


def _locks(root: Path) -> tuple[Lock, Lock] | None:
    both = sides(root, LOCK)
    return (from_json(both.ours)[0], from_json(both.theirs)[0]) if both else None


def _repair(
    plan: Plan, path: str, file: File, both: Sides | None, locks: tuple[Lock, Lock] | None
) -> None:
    if both and locks and _untouched(path, both, locks):
        plan.changes[path] = file
        plan.said.append((path, "merge", "both branches"))
    else:
        plan.said.append((path, "keep", "git's conflict markers are yours to edit"))


def _untouched(path: str, both: Sides, locks: tuple[Lock, Lock]) -> bool:
    """Whether each branch left the file as generated."""
    pairs = zip((both.ours, both.theirs), locks, strict=True)
    return all(path in lock and lock[path].file.data == data for data, lock in pairs)
