"""Changing an existing project: add, remove, update, resolve and undo."""

import json
from dataclasses import replace
from pathlib import Path

from scaffold.answers import Answers, to_yaml
from scaffold.catalogue import Catalogue, Part
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File, Odd
from scaffold.git import unmerged
from scaffold.journal import last_change
from scaffold.lock import Entry, Lock, from_json, to_json
from scaffold.merge import has_git_markers
from scaffold.names import one_line, package_name, public
from scaffold.own import fetch, split
from scaffold.plan import Plan, make_plan
from scaffold.project import ANSWERS, LOCK, Project
from scaffold.render import is_current, paths
from scaffold.runtime import check_runtime
from scaffold.transition import PENDING, Proposal, check_merged, propose


def add(project: Project, kind: str, name: str, catalogue: Catalogue) -> Proposal:
    """Switch a feature on, with the features it needs; restores files of it that the user deleted."""
    answers, owned = project.answers, list[str]()
    project.check_has_features()
    _check_current(project, catalogue)
    before, name = answers, _feature(kind, name, catalogue).name
    answers = answers.with_feature(kind, name).complete(catalogue)
    for part in answers.parts(catalogue):
        if (part.kind, part.name) == (kind, name) or part not in before.parts(catalogue):
            owned += paths(part, answers.package)
    disk = Disk(project.root)
    for path in owned:
        if disk.get(path) is Odd.BLOCKED:
            what = f"`{disk.blocker(path)}` is a link or a file"
            raise ScaffoldError(f"cannot write `{path}`: {what}\nreplace it by a folder")
    return propose(project, answers, catalogue, [path for path in owned if not disk.get(path)])


def _feature(kind: str, name: str, catalogue: Catalogue) -> Part:
    """The feature of this name; the error for an unknown callback or logger explains `--custom`."""
    try:
        return catalogue.feature(kind, name)
    except ScaffoldError as error:
        if kind not in ("callback", "logger") or name in catalogue.features[kind]:
            raise
        raise ScaffoldError(f"{error} (`--custom` starts one of your own)") from None


def _check_current(project: Project, catalogue: Catalogue) -> None:
    """Require `update` first if templates changed: that has its own report, conflicts and undo."""
    if is_current(project.answers, catalogue):
        return
    of, now = project.answers.version, catalogue.version
    if of == now:
        plan = update(project, catalogue).plan
        of += " with older templates" * bool(plan.changes or plan.conflicts)
    if of != now:
        raise ScaffoldError(
            f"the project is from scaffold {of}, but this is {now}\nrun `scaffold update` first"
        )


def remove(project: Project, kind: str, name: str, catalogue: Catalogue) -> Proposal:
    answers = project.answers
    if (kind, name) in answers.lost(catalogue):
        return _remove_lost(project, answers.without_feature(kind, name), catalogue)
    _check_feature(project, kind, name, catalogue)
    _check_current(project, catalogue)
    catalogue.feature(kind, name)
    if name not in answers.on(kind):
        raise ScaffoldError(f"{kind} `{name}` is already off; `scaffold list` shows what is on")
    if needing := [part for part in answers.parts(catalogue) if f"{kind}/{name}" in part.needs]:
        said = " and ".join(f"{part.kind} `{part.name}`" for part in needing)
        raise ScaffoldError(f"{said} need{'s' * (len(needing) == 1)} {kind} `{name}`")
    return propose(project, answers.without_feature(kind, name), catalogue)


def _remove_lost(project: Project, answers: Answers, catalogue: Catalogue) -> Proposal:
    """Its files are only known once the rest is rendered, so deleting them may have to wait for `update`."""
    if answers.version == catalogue.version and not answers.lost(catalogue):
        return propose(project, answers, catalogue)
    check_merged(project)
    note = "`scaffold update` deletes its files, except those that you edited"
    plan = Plan(dict(project.lock), said=[(ANSWERS, "update", note)])
    return Proposal(project.root, plan, Disk(project.root), {ANSWERS: File(to_yaml(answers))})


def _check_feature(project: Project, kind: str, name: str, catalogue: Catalogue) -> None:
    """Refuse to remove the user's own code (`add ... --custom`), and configs that belong to the task."""
    folder = {"callback": "callbacks", "logger": "loggers", "module": "model", "datamodule": "data"}
    path = f"configs/{folder.get(kind)}/{package_name(name)}.yaml"
    ours, delete = catalogue.features.get(kind, {}), f"delete `{path}` to switch it off"
    if name not in ours and isinstance(Disk(project.root).get(path), File):
        if path not in project.lock:
            raise ScaffoldError(f"{kind} `{name}` is your own: {delete}")
        if package_name(name) not in map(package_name, ours):
            raise ScaffoldError(f"{kind} `{name}` comes with the task: {delete}")
    if kind in folder and kind not in catalogue.features:
        raise ScaffoldError(
            f"there is no {kind} `{one_line(name)}`: `{one_line(path)}` does not exist"
        )


def update(
    project: Project, catalogue: Catalogue, ref: str = "", runtime: str | None = None
) -> Proposal:
    """Update to the templates of this version, or a team's own template to `ref`."""
    answers = replace(project.answers, version=catalogue.version)
    if runtime is not None:
        answers = replace(answers, runtime=check_runtime(runtime))
    elif answers.runtime[:1].isdigit():
        check_runtime(answers.runtime)  # a pinned version may be too old for the templates
    if ref and not answers.template:
        raise ScaffoldError("--ref is for projects made with `--template`")
    address, at = split(answers.template) if answers.template else ("", "")
    if ref:
        answers = replace(answers, template=f"{address}@{ref}")
    proposal = propose(project, answers.complete(catalogue), catalogue)
    if address:
        at_which = ref or at or fetch(answers.template).commit[:10]
        said = f"Updated from `{public(address)}`{f' at `{at_which}`' if at_which else ''}"
        proposal = replace(proposal, headline=said)
    if at and not ref:
        note = f"the template stays at `{at}`; `scaffold update --ref` moves to another"
        proposal.plan.said.append((ANSWERS, "keep", note))
    return proposal


def undo(root: Path) -> Proposal:
    """The last change in reverse, merged with later edits."""
    changes = last_change(root)
    if not changes:
        raise ScaffoldError("there is nothing to undo")
    disk = Disk(root)
    ours = [change for change in changes if change.path.startswith(".scaffold/")]
    kept = [change for change in ours if change.path != PENDING]  # `resolve` deletes that one
    if edited := [change.path for change in kept if disk.get(change.path) != change.after]:
        raise ScaffoldError(f"cannot undo: `{edited[0]}` was changed since, by hand or by git")
    marked = {each.path for each in ours if each.before and has_git_markers(each.before.data)}
    if merged := sorted(marked - {*unmerged(root)}):
        raise ScaffoldError(
            f"cannot undo: git's conflict markers would be back in `{merged[0]}`\n"
            "the merge has ended since: take it back with git"
        )
    theirs = [change for change in changes if change not in ours]
    base = {each.path: Entry(each.after) for each in theirs if each.after}
    target = {each.path: each.before for each in theirs if each.before}
    plan = make_plan(base, disk, target)
    state = {each.path: each.before for each in ours}
    return Proposal(root, plan, disk, state | _with_kept(state.get(LOCK), plan.lock))


def _with_kept(lock: File | None, entries: Lock) -> dict[str, File | None]:
    """An earlier lock, plus the files that stay although it does not list them."""
    kept = {path: entry for path, entry in entries.items() if entry.state == "kept"}
    if not lock or not kept:
        return {}
    before, version = from_json(lock.data)[0], json.loads(lock.data)["version"]
    return {LOCK: File(to_json({**kept, **before}, version))}
