"""Views of a project for `list` and `diff`: active features, edits, and what `update` would change."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path

from scaffold.catalogue import Catalogue, Part
from scaffold.errors import NotAProjectError
from scaffold.files import Disk, File, Found
from scaffold.merge import in_style_of, is_binary, is_same_text, unedited
from scaffold.names import package_name
from scaffold.project import Project, find_root, open_project
from scaffold.render import is_current, paths


@dataclass(frozen=True)
class Feature:
    kind: str
    name: str
    description: str
    # "" (off), on, yours, edited, missing, ejected, or kept (off, but edited files remain)
    state: str


@dataclass(frozen=True)
class Difference:
    path: str
    verb: str
    text: str


def features(catalogue: Catalogue, start: Path) -> list[Feature]:
    """All features; outside a project none is on, and a team's own template has none."""
    try:
        project = open_project(find_root(start))
    except NotAProjectError:
        project = None
    if project and project.answers.template:
        return []
    found = []
    for kind, parts in catalogue.features.items():
        ours = [Feature(kind, p.name, p.description, _state(p, project)) for p in parts.values()]
        found += [*ours, *(_others(project, kind, parts) if project else ())]
    return found


def _others(project: Project, kind: str, parts: Mapping[str, Part]) -> Iterator[Feature]:
    """Active configs outside the catalogue: the task's, the user's own, or of a package that is gone."""
    lost = {package_name(name) for name in project.answers.on(kind) if name not in parts}
    known = {path for part in parts.values() for path in paths(part, project.answers.package)}
    for place in sorted((project.root / "configs" / f"{kind}s").glob("*.yaml")):
        path = place.relative_to(project.root).as_posix()
        if path not in known:
            brought = path in project.lock
            about = "comes with the task" if brought else "your own"
            about = "the package that provides it is gone" if place.stem in lost else about
            yield Feature(kind, place.stem, about, "on" if brought else "yours")


def own_changes(project: Project) -> list[Difference]:
    """Edits of the user in generated files."""
    disk = Disk(project.root)
    found = []
    for path, entry in sorted(project.lock.items()):
        now = disk.get(path)
        if not _is_as(path, now, entry.file) and entry.state != "deleted":
            found.append(_difference(path, _as_formatted(path, entry.file, now), now))
    return found


def coming_changes(project: Project, catalogue: Catalogue) -> list[Difference]:
    """What `update` would change; renders nothing if the templates are the same."""
    if is_current(project.answers, catalogue):
        return []
    from scaffold.grow import update

    proposal = update(project, catalogue)
    files = {**proposal.plan.changes, **{p: c.markers for p, c in proposal.plan.conflicts.items()}}
    return [_difference(path, proposal.disk.get(path), file) for path, file in files.items()]


def _state(part: Part, project: Project | None) -> str:
    if project is None:
        return ""

    disk = Disk(project.root)
    owned = paths(part, project.answers.package)
    entries = [(path, disk.get(path), project.lock[path]) for path in owned if path in project.lock]
    if part.name not in project.answers.on(part.kind):
        kept = (entry for _, found, entry in entries if found and entry.state == "kept")
        return "kept" if any(kept) else ""
    if any(entry.state == "ejected" for _, _, entry in entries):
        return "ejected"
    if any(found is None for _, found, _ in entries):
        return "missing"
    same = all(_is_as(path, found, entry.file) for path, found, entry in entries)
    return "on" if same else "edited"


def _as_formatted(path: str, file: File, now: Found) -> File:
    """The generated file in the user's formatting, so that a diff only shows edits."""
    if not isinstance(now, File) or is_binary(file.data) or is_binary(now.data):
        return file
    return replace(file, data=in_style_of(now.data, unedited(path, now.data, file.data)))


def _is_as(path: str, found: Found, file: File) -> bool:
    if not isinstance(found, File) or found.executable != file.executable:
        return False
    return is_same_text(path, found.data, file.data)


def _difference(path: str, before: Found, after: Found) -> Difference:
    if before is None:
        verb = "added"
    else:
        verb = "deleted" if after is None else "changed"
    return Difference(path, verb, "".join(_diff(path, before, after)))


def _diff(path: str, before: Found, after: Found) -> Iterator[str]:
    old, new = _text(before), _text(after)
    for line in unified_diff(old, new, f"a/{path}", f"b/{path}", n=2):
        yield line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n"


def _text(found: Found) -> list[str]:
    if not isinstance(found, File):
        return [f"({found.value})\n"] if found else []
    if b"\0" in found.data:
        return [f"(binary, {len(found.data)} bytes)\n"]
    return found.data.decode(errors="backslashreplace").splitlines(keepends=True)
