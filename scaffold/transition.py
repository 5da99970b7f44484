"""The engine behind `add`, `remove` and `update`: from the old answers to the new ones.

Render, plan, settle conflicts, write as one change.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from scaffold import package
from scaffold.answers import Answers
from scaffold.catalogue import Catalogue, Part
from scaffold.errors import ConflictError
from scaffold.files import Disk, File, Tree
from scaffold.git import unmerged
from scaffold.journal import write
from scaffold.length import LINE_LENGTH, at_length, own_length
from scaffold.lock import Entry, Lock, is_safe
from scaffold.merge import has_markers
from scaffold.plan import Conflict, Plan, Verb, decide, is_in_crlf, make_plan
from scaffold.project import Project, state_files
from scaffold.render import digest, paths, render
from scaffold.trained import named_in_script

ALIKE = 0.6
PENDING = ".scaffold/work/pending.json"
SKIPPED = {"__pycache__", "build", "data", "dist", "node_modules", "runs", "venv"}
LARGEST = 256 * 1024
WON: dict[str, tuple[Verb, str]] = {
    "mine": ("keep", "in conflict, your version is kept"),
    "template": ("update", "in conflict, now the template's; `scaffold undo` brings yours back"),
}
Policy = Callable[[str, Conflict], str]  # path, conflict -> mine, template, markers or fail


@dataclass(frozen=True)
class Proposal:
    root: Path
    plan: Plan
    disk: Disk
    state: Mapping[str, File | None]  # files in `.scaffold/`; None deletes
    headline: str = ""  # replaces that of the command

    @property
    def changes_nothing(self) -> bool:
        same = all(self.disk.get(path) == file for path, file in self.state.items())
        return same and not self.plan.changes and not self.plan.conflicts


def propose(
    project: Project, answers: Answers, catalogue: Catalogue, restore: Iterable[str] = ()
) -> Proposal:
    """The change to `answers`; `restore` are files that the user deleted and that come back."""
    check_merged(project)
    disk = Disk(project.root)
    length = LINE_LENGTH if answers.template else own_length(disk)
    before = {
        path: replace(entry, file=at_length(path, entry.file, length))
        for path, entry in _base(project, catalogue).items()
    }
    used = still_used(before, disk, answers, catalogue)
    target = render(answers, catalogue, used, project.lock)
    target = {path: at_length(path, file, length) for path, file in target.items()}
    base = package.renamed(before, target, disk, answers.package)
    base = {path: entry for path, entry in base.items() if path not in set(restore)}
    said = catalogue.moves(answers.package)
    renamed = _renamed(base, target, disk, said) if _newer(project, answers) else {}
    homes = _homes(base, target, disk, renamed)
    plan = make_plan(base, disk, target, renamed, homes, crlf=is_in_crlf(base, disk))
    package.check_package(project, plan)
    script = plan.changes.get("train.py")
    names = named_in_script(script.data) if script else {}
    if names and names != answers.trained:
        # train.py names other classes now, and so must the other files
        return propose(project, replace(answers, trained=names), catalogue, restore)
    answers = replace(answers, templates=digest(answers, catalogue))
    return Proposal(project.root, plan, disk, state_files(answers, plan.lock, disk))


def still_used(lock: Lock, disk: Disk, answers: Answers, catalogue: Catalogue) -> list[Part]:
    """Features that are off, but whose edited files stay and still need their packages."""
    return [
        part
        for parts in catalogue.features.values()
        for part in parts.values()
        if part.requirements and part.name not in answers.on(part.kind)
        for path in paths(part, answers.package)
        if path in lock and decide(path, lock[path], disk.get(path), None).state == "kept"
    ]


def settle(plan: Plan, policy: Policy) -> list[str]:
    """Turn conflicts into changes; returns the paths that now hold markers."""
    pending, refused = [], dict[str, str]()
    for path, conflict in plan.conflicts.items():
        choice = policy(path, conflict)
        if choice == "fail":
            refused[path] = f"`{path}`: {conflict.note}"
            continue
        plan.changes[path] = getattr(conflict, choice)
        won = WON.get(choice, ("conflict", conflict.note))
        plan.said[:] = [
            (p, *won) if (p, v) == (path, "conflict") else (p, v, n) for p, v, n in plan.said
        ]
        pending += [path] if choice == "markers" else []
    if refused:
        raise ConflictError(
            f"{'; '.join(refused.values())}\n"
            "nothing was written; decide with `--conflict markers|mine|template`",
            list(refused),
        )
    return pending


def carry_out(proposal: Proposal, pending: list[str]) -> None:
    """Write the changes, then answers and lock."""
    state = dict(proposal.state)
    if pending:
        state = {PENDING: File(json.dumps(pending).encode()), **state}
    write(proposal.root, {**proposal.plan.changes, **state}, proposal.disk)


def pending_conflicts(root: Path) -> list[str]:
    """Files that still have conflict markers of an earlier change."""
    listed = root / PENDING
    try:
        paths = [str(path) for path in json.loads(listed.read_bytes())] if listed.exists() else []
    except (ValueError, TypeError):
        return []
    return [path for path in paths if is_safe(path) and _unresolved(root / path)]


def check_nothing_pending(root: Path) -> None:
    if paths := pending_conflicts(root):
        raise ConflictError(
            f"still in conflict: {', '.join(paths)}\n"
            "edit them and run `scaffold resolve`, or undo the change with `scaffold undo`",
            paths,
        )


def check_merged(project: Project) -> None:
    if paths := unmerged_files(project):
        own = any(path.startswith(".scaffold/") for path in paths)
        first = "run `scaffold doctor --rebuild`" if own else "edit them"
        raise ConflictError(
            f"git has conflicts in {', '.join(paths)}\n{first}, then finish the merge with `git add` and `git commit`",
            paths,
        )


def unmerged_files(project: Project) -> list[str]:
    """Generated files and state that are in conflict after a git merge."""
    return [
        path
        for path in unmerged(project.root)
        if path in project.lock or path.startswith(".scaffold/")
    ]


def _unresolved(path: Path) -> bool:
    return path.is_file() and has_markers(path.read_bytes())


def _newer(project: Project, answers: Answers) -> bool:
    """Whether the templates may have changed: another version or, with the same features, an `update`."""
    before = project.answers
    return before.version != answers.version or before.features == answers.features


def _base(project: Project, catalogue: Catalogue) -> Lock:
    """The lock; damaged entries are rendered again, if that gives their recorded hash."""
    if not project.damaged or project.answers.version != catalogue.version:
        return project.lock
    again = render(project.answers, catalogue)
    restored = {
        path: Entry(again[path])
        for path, claim in project.damaged.items()
        if path in again and again[path].hash == claim
    }
    return {**project.lock, **restored}


def _renamed(base: Lock, target: Tree, disk: Disk, said: Mapping[str, str]) -> dict[str, str]:
    """Files that the templates moved, by `moves.yml` or by similar content: old path to new."""
    gone = [path for path in base if path not in target and base[path].state != "kept"]
    new = [path for path in target if path not in base and disk.get(path) is None]
    moves: dict[str, str] = {}
    for old in gone:
        free = [path for path in new if path not in moves.values()]
        place = said.get(old) if said.get(old) in free else None
        place = place or _most_alike(old, base[old].file, {path: target[path] for path in free})
        if place:
            moves[old] = place
    return moves


def _homes(base: Lock, target: Tree, disk: Disk, renamed: Mapping[str, str]) -> dict[str, str]:
    """Files about to change that the user moved: old path to new, found by similar content."""
    lost = [
        path
        for path, entry in base.items()
        if entry.state == "managed"
        and disk.get(path) is None
        and (path in renamed or target.get(path) not in (None, entry.file))
    ]
    if not lost:
        return {}
    own = _own_files(disk, {*base, *target})
    found = {path: _most_alike(path, base[path].file, own) for path in lost}
    known = {path: entry.file for path, entry in base.items()}  # one of them may be more alike
    pairs = ((path, home) for path, home in found.items() if home)
    return {path: home for path, home in pairs if _most_alike(home, own[home], known) == path}


def _own_files(disk: Disk, generated: set[str]) -> dict[str, File]:
    """Readable files of the user, not too large, that may be moved generated files."""
    found: dict[str, File] = {}
    stack = [disk.root]
    while stack and len(found) < 5000:
        folder = stack.pop()
        for path in sorted(folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else ():
            name = path.relative_to(disk.root).as_posix()
            if path.is_symlink() or path.name.startswith(".") or path.name in SKIPPED:
                continue
            if path.is_dir():
                stack.append(path)
            elif name in generated or package.is_second(name, disk) or not os.access(path, os.R_OK):
                continue
            elif path.stat().st_size <= LARGEST:
                file = disk.get(name)
                found |= {name: file} if isinstance(file, File) else {}
    return found


def _most_alike(path: str, file: File, others: Mapping[str, File]) -> str | None:
    lines = file.data.splitlines()
    best, place = ALIKE, None
    for name, other in others.items():
        if Path(name).suffix != Path(path).suffix or not lines:
            continue
        match = SequenceMatcher(None, lines, other.data.splitlines(), autojunk=False)
        ratios = (match.real_quick_ratio, match.quick_ratio, match.ratio)  # the quick ones first
        if all(ratio() >= best for ratio in ratios):
            best, place = match.ratio(), name
    return place
