"""The steps of every command that changes a project: lock, plan, settle conflicts, write, report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaffold import console
from scaffold.catalogue import Catalogue, packaged
from scaffold.errors import CancelledError
from scaffold.names import pick

if TYPE_CHECKING:
    from scaffold.plan import Conflict
    from scaffold.transition import Policy, Proposal

POLICIES = ["fail", "markers", "mine", "template"]


@dataclass(frozen=True)
class Manner:
    """How the user wants a change to be made."""

    conflict: str
    dry_run: bool
    as_json: bool
    while_pending: bool = False  # allowed while an earlier conflict is open


def change(headline: str, make: "Callable[[Path, Catalogue], Proposal]", manner: Manner) -> None:
    """Make one change; the exit code is 2 if it leaves a conflict open."""
    from scaffold.journal import alone
    from scaffold.project import check_plain, find_root
    from scaffold.transition import carry_out, check_nothing_pending, settle

    policy = _policy(manner)
    root = find_root(Path.cwd())
    check_plain(root)
    with alone(root, dry_run=manner.dry_run):
        if not manner.while_pending:
            check_nothing_pending(root)
        proposal = make(root, packaged())
        if manner.dry_run and not manner.conflict:
            pending = list(proposal.plan.conflicts)
        else:
            pending = settle(proposal.plan, policy)
        if not manner.dry_run:
            carry_out(proposal, pending)
    with console.reporting(done=not manner.dry_run):
        console.changed(headline, proposal, pending, dry_run=manner.dry_run, as_json=manner.as_json)
        console.misplaced(root, [path for path, file in proposal.plan.changes.items() if file])
    if pending:
        raise typer.Exit(2)


def _policy(manner: Manner) -> "Policy":
    from scaffold.wizard import on_terminal

    if manner.conflict:
        choice = pick(manner.conflict, POLICIES, "way to resolve a conflict")
        return lambda path, conflict: choice
    if on_terminal() and not manner.as_json:
        return ask_each
    return lambda path, conflict: "fail"


def ask_each(path: str, conflict: "Conflict") -> str:
    """Ask, for one file, whose lines win, or whether to keep both with markers."""
    import questionary

    choices = {
        "keep mine": "mine",
        "take the template's": "template",
        "both, with conflict markers to edit": "markers",
        "stop, write nothing": "fail",
    }
    try:
        answer = questionary.select(f"{path}: {conflict.note}", list(choices)).unsafe_ask()
    except KeyboardInterrupt:
        raise CancelledError("cancelled, nothing was written") from None
    return choices[answer]
