"""Decides what a change does to each file, before anything is written.

A pure function of three maps: the base as generated, the user's files and the new render.
The first case that fits a path decides; nothing that the user wrote is overwritten or deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from scaffold.files import File, Found, Odd, Tree
from scaffold.lock import Entry, Lock, State
from scaffold.merge import are_crlf, in_crlf, in_style_of, is_binary, is_same_text, merge

Verb = Literal[
    "same", "create", "update", "merge", "move", "delete", "keep", "gone", "beside", "conflict"
]

STILL_ON = "edited, so it stays and is still on; delete it to switch it off"
NOT_NEEDED = "you edited it, delete it if you do not need it"
Step = tuple[str, Verb, str]  # path, verb, note


class Disk(Protocol):
    """The user's files by path, also as they would be after deletions."""

    def get(self, path: str, /) -> Found: ...
    def without(self, path: str, changes: Mapping[str, File | None], /) -> Found: ...


@dataclass(frozen=True)
class Outcome:
    """What happens to one path; `state` None removes it from the lock."""

    verb: Verb
    state: State | None = "managed"
    file: File | None = None  # the content afterwards, for the verbs that write
    note: str = ""
    stale: bool = False  # keep the old base in the lock, as the new file was not written


@dataclass(frozen=True)
class Conflict:
    """Both sides changed the same lines; the three possible results."""

    mine: File
    template: File
    markers: File
    note: str


@dataclass
class Plan:
    lock: dict[str, Entry] = field(default_factory=dict)
    changes: dict[str, File | None] = field(default_factory=dict)  # None deletes
    said: list[Step] = field(default_factory=list)
    conflicts: dict[str, Conflict] = field(default_factory=dict)


def make_plan(
    base: Lock,
    disk: Disk,
    target: Tree,
    renamed: Mapping[str, str] | None = None,
    homes: Mapping[str, str] | None = None,
    *,
    crlf: bool = False,
) -> Plan:
    """Decide every path.

    Args:
        renamed: files that the templates moved, old path to new path.
        homes: files that the user moved, old path to new path.
        crlf: write new files with CRLF line ends.
    """
    plan, renamed, homes = Plan(), renamed or {}, homes or {}
    came_from = {new: old for old, new in renamed.items()}
    # deletions first: a file may become a folder, or a folder a file
    for path in sorted({*base, *target} - {*renamed}, key=lambda path: (path in target, path)):
        origin = came_from.get(path, path)
        home = homes.get(origin, origin)
        old, user, new = base.get(origin), disk.without(home, plan.changes), target.get(path)
        outcome = decide(home, old, user, new)
        if outcome.verb == "create" and outcome.file and crlf:
            outcome = replace(outcome, file=replace(outcome.file, data=in_crlf(outcome.file.data)))
        place = path if home == origin else home
        if path != origin and old and new and disk.get(origin) is None:
            outcome, place = _both_moved(origin, home, old, user, new), path
        _record(plan, path, outcome, old, new)
        _place(plan, place, outcome, disk)
        if outcome.verb == "conflict" and isinstance(user, File) and new and outcome.file:
            theirs = replace(new, data=in_style_of(user.data, new.data))
            plan.conflicts[place] = Conflict(user, theirs, outcome.file, outcome.note)
        beside = f"{path}.new"
        if old and old.state == "ejected" and new is None and disk.get(beside) == old.file:
            _place(plan, beside, Outcome("delete"), disk)
        if origin not in (path, *plan.changes):
            _leave(plan, origin, path, disk.get(origin))
    return plan


def is_in_crlf(lock: Lock, disk: Disk) -> bool:
    """Whether all generated files have CRLF line ends, so that new ones get them too."""
    return are_crlf([file.data for file in map(disk.get, lock) if isinstance(file, File)])


def decide(path: str, base: Entry | None, user: Found, target: File | None) -> Outcome:
    if base and base.state != "managed" and (outcome := _unmanaged(base, user, target)):
        return outcome
    if target is None:
        return _dropped(path, base, user)
    if base and target == base.file:
        return Outcome("same")
    if user is None:
        return _absent(base, target)
    if user is Odd.BLOCKED:
        return Outcome("keep", "managed" if base else None, note=f"is {user.value}", stale=True)
    if isinstance(user, Odd):
        return Outcome("beside", "managed" if base else "ejected", target, f"yours is {user.value}")
    if base is None:
        return _collision(path, user, target)
    return _three_files(path, base.file, user, target)


def _unmanaged(base: Entry, user: Found, target: File | None) -> Outcome | None:
    """The outcome for a file that is not merged any more; None if it is to be merged again."""
    if user is not None and user == target:
        return Outcome("same")
    if base.state == "ejected" and target is not None:
        return Outcome("same" if target == base.file else "keep", "ejected", note="is ejected")
    if base.state == "deleted" and user is None:
        return Outcome("same", "deleted" if target else None)
    if base.state == "kept" and target is None:
        return Outcome("same", "kept" if user else None)
    if base.state == "kept" and user is None:
        return Outcome("create", file=target)
    return Outcome("same", None) if target is None and base.state == "ejected" else None


def _dropped(path: str, base: Entry | None, user: Found) -> Outcome:
    """The templates no longer have this file."""
    if user is None or base is None:
        return Outcome("same", None)
    if isinstance(user, Odd):
        return Outcome("keep", None, note=f"no longer generated, yours is {user.value}")
    if is_same_text(path, user.data, base.file.data):
        return Outcome("delete", None)
    return Outcome("keep", "kept", note=STILL_ON if path.startswith("configs/") else NOT_NEEDED)


def _absent(base: Entry | None, target: File) -> Outcome:
    if base is None:
        return Outcome("create", file=target)
    return Outcome("gone", "deleted", note="changed, but you deleted it")


def _collision(path: str, user: File, target: File) -> Outcome:
    if is_same_text(path, user.data, target.data):
        return Outcome("same")
    return Outcome("beside", "ejected", target, "you have a file of that name")


def _three_files(path: str, base: File, user: File, target: File) -> Outcome:
    changed_by_user = user.executable != base.executable
    executable = user.executable if changed_by_user else target.executable
    if user.data in (target.data, base.data) or target.data == base.data:
        data = user.data if target.data == base.data else target.data
        file = replace(user, data=data, executable=executable)
        return Outcome("same") if file == user else Outcome("update", file=file)
    if any(is_binary(file.data) for file in (base, user, target)):
        return Outcome("beside", file=target, note="both changed it, and it is binary")
    merged = merge(path, base.data, user.data, target.data)
    file = replace(user, data=merged.data, executable=executable)
    if not merged.conflicts:
        return Outcome("merge", file=file)
    many = "1 place" if merged.conflicts == 1 else f"{merged.conflicts} places"
    return Outcome("conflict", file=file, note=merged.note or f"both changed {many}")


def _both_moved(origin: str, home: str, base: Entry, user: Found, target: File) -> Outcome:
    """User and templates moved the file: both stay, as the code of each looks for its own."""
    if base.state != "managed":
        return Outcome("same", "deleted")
    if not isinstance(user, File):
        return Outcome("gone", "deleted", note=f"was `{origin}`, which you deleted")
    outcome = _three_files(home, base.file, user, target)
    note = f"was `{origin}`, with your edits; yours stays at `{home}`"
    verb: Verb = "conflict" if outcome.verb == "conflict" else "create"
    return Outcome(verb, file=outcome.file or user, note=note)


def _record(
    plan: Plan, path: str, outcome: Outcome, base: Entry | None, target: File | None
) -> None:
    """Update the lock: the new render, or the old base if it was not replaced."""
    old = base.file if base else None
    pristine = old if outcome.stale or target is None else target
    if pristine and outcome.state:
        plan.lock[path] = Entry(pristine, outcome.state)


def _place(plan: Plan, path: str, outcome: Outcome, disk: Disk) -> None:
    if outcome.verb == "same":
        return
    if outcome.verb == "beside" and outcome.file:
        path = _sibling(path, outcome.file, disk)
    if outcome.verb == "delete":
        plan.changes[path] = None
    elif outcome.file and outcome.verb != "conflict":
        plan.changes[path] = outcome.file
    plan.said.append((path, outcome.verb, outcome.note))


def _sibling(path: str, file: File, disk: Disk) -> str:
    """The first free name beside the user's file."""
    names = (f"{path}.new{'' if number == 1 else number}" for number in range(1, 1000))
    return next(name for name in names if disk.get(name) in (None, file))


def _leave(plan: Plan, old: str, new: str, user: Found) -> None:
    """The templates moved a file: move the user's version too, with its edits."""
    if not isinstance(user, File):
        return
    if new not in plan.conflicts:
        plan.changes.setdefault(new, user)
    plan.changes[old] = None
    plan.said.append((old, "move", f"to {new}"))
