"""Rebuilds the lock after a merge of two branches or an edit by hand.

If git still has both sides of a conflict, answers are merged as sets of features, and a generated
file that neither branch edited is generated again.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from scaffold.answers import EXCLUSIVE, Answers, from_yaml
from scaffold.catalogue import KINDS, Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File, Tree
from scaffold.git import git
from scaffold.lock import Entry, Lock, from_json
from scaffold.merge import has_git_markers
from scaffold.plan import Plan, Step, is_in_crlf, make_plan
from scaffold.project import ANSWERS, LOCK, state_files
from scaffold.render import paths, render
from scaffold.transition import Proposal, still_used


@dataclass(frozen=True)
class Sides:
    """The versions of a file in git's index while it is in conflict."""

    base: bytes | None
    ours: bytes
    theirs: bytes


def rebuild(root: Path, catalogue: Catalogue) -> Proposal:
    """Answers merged from both branches, and the lock that belongs to them."""
    disk = Disk(root)
    answers, notes = _answers(disk)
    if answers.version != catalogue.version:
        raise ScaffoldError(
            f"the lock is from scaffold {answers.version}, but this is {catalogue.version}\n"
            f'rebuild with that version: pip install "torch-scaffold=={answers.version}"'
        )
    locks = _locks(disk)
    known, merged = _known(locks), answers.parts(catalogue)
    answers = answers.complete(catalogue)
    for part in answers.parts(catalogue):
        if part not in merged:  # switched off by one branch, but needed by the other
            for path in paths(part, answers.package):
                known.pop(path, None)
    target = render(answers, catalogue, still_used(known, disk, answers, catalogue))
    base = _base(known, disk, target)
    plan = make_plan(base, disk, target, crlf=is_in_crlf(base, disk))
    for path, entry in _agreed(known, locks).items():
        if path in plan.lock:  # keep what the branches agree on; `update` merges newer templates
            plan.lock[path] = replace(plan.lock[path], file=entry.file)
    for path, file in target.items():
        now = disk.get(path)
        if isinstance(now, File) and has_git_markers(now.data):
            _repair(plan, path, file, sides(root, path), locks)
    plan.said += notes
    return Proposal(root, plan, disk, state_files(answers, plan.lock, disk))


def sides(root: Path, path: str) -> Sides | None:
    shown = [git("show", f":{stage}:./{path}", inside=root) for stage in (1, 2, 3)]
    base, ours, theirs = (done.stdout if done and not done.returncode else None for done in shown)
    return None if ours is None or theirs is None else Sides(base, ours, theirs)


def _answers(disk: Disk) -> tuple[Answers, list[Step]]:
    both = sides(disk.root, ANSWERS)
    if both:
        ours, theirs = from_yaml(both.ours), from_yaml(both.theirs)
        base = from_yaml(both.base) if both.base else replace(ours, features={})
        return _merged(base, ours, theirs)
    found = disk.get(ANSWERS)
    if not isinstance(found, File):
        raise ScaffoldError(f"`{ANSWERS}` is missing, restore it from git")
    return from_yaml(found.data), []


def _merged(base: Answers, ours: Answers, theirs: Answers) -> tuple[Answers, list[Step]]:
    """Features that either branch has, except those that one switched off; of two strategies, this branch's."""
    if ours.version != theirs.version:
        raise ScaffoldError(
            f"the branches are at versions {ours.version} and {theirs.version}\n"
            "run `scaffold update` on the older one before merging"
        )
    features, notes = {}, list[Step]()
    for kind in KINDS:
        before, one, other = set(base.on(kind)), set(ours.on(kind)), set(theirs.on(kind))
        on = (one | other) - (before - one) - (before - other)
        if kind in EXCLUSIVE and len(on) > 1:
            name = next(iter(on - one))
            note = f"{kind} `{next(iter(one))}` from this branch; `scaffold add {kind} {name}` takes the other's"
            on, notes = one, [*notes, (ANSWERS, "keep", note)]
        features[kind] = tuple(sorted(on))
    known = ours.templates if ours.templates == theirs.templates else ""
    return replace(ours, features=features, templates=known), notes


def _locks(disk: Disk) -> list[Lock]:
    """The locks of both branches, or the one on disk; none if unreadable."""
    both, found = sides(disk.root, LOCK), disk.get(LOCK)
    here = [found.data] if isinstance(found, File) else []
    with suppress(ScaffoldError):
        return [_readable(data) for data in ([both.ours, both.theirs] if both else here)]
    return []


def _readable(data: bytes) -> Lock:
    """The lock; a damaged entry becomes an empty file, so that its path is still known."""
    lock, damaged = from_json(data)
    return {**lock, **{path: Entry(File(b"")) for path in damaged}}


def _known(locks: list[Lock]) -> dict[str, Entry]:
    """Entries of either branch; a file that is not managed in one is not managed in the result."""
    known: dict[str, Entry] = {}
    for path, entry in (pair for lock in locks for pair in lock.items()):
        if path not in known or known[path].state == "managed":
            known[path] = entry
    return known


def _agreed(known: Lock, locks: list[Lock]) -> Lock:
    """Entries on which the branches do not differ, without damaged (empty) ones."""
    return {
        path: entry
        for path, entry in known.items()
        if entry.file.data and all(lock.get(path, entry).file == entry.file for lock in locks)
    }


def _base(known: Lock, disk: Disk, target: Tree) -> Lock:
    """A base as if generated now, so that the rebuild changes no file of the user."""
    now = {path: Entry(file) for path, file in target.items() if path in known or disk.get(path)}
    return {**known, **{p: replace(known.get(p, new), file=new.file) for p, new in now.items()}}


def _repair(plan: Plan, path: str, file: File, both: Sides | None, locks: list[Lock]) -> None:
    if both and len(locks) == 2 and _untouched(path, both, locks):
        plan.changes[path] = file
        plan.said.append((path, "merge", "both branches"))
    else:
        plan.said.append((path, "keep", "git's conflict markers are yours to resolve"))


def _untouched(path: str, both: Sides, locks: list[Lock]) -> bool:
    """Whether each branch left the file as generated."""
    pairs = zip((both.ours, both.theirs), locks, strict=True)
    return all(path in lock and lock[path].file.data == data for data, lock in pairs)
