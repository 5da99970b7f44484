"""Shell completion; see `scaffold --install-completion`."""

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from scaffold.catalogue import KINDS, Part, packaged
from scaffold.change import POLICIES
from scaffold.errors import ScaffoldError

Found = list[tuple[str, str]]  # completion, description


def kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def addable(incomplete: str) -> list[str]:
    return [kind for kind in (*KINDS, "module", "datamodule") if kind.startswith(incomplete)]


def policies(incomplete: str) -> list[str]:
    return [policy for policy in POLICIES if policy.startswith(incomplete)]


def tasks(incomplete: str) -> Found:
    return _matching(packaged().tasks.values(), incomplete)


def names(context: typer.Context, incomplete: str) -> Found:
    """Features of the kind given before; for `remove`, only those that are on."""
    kind = context.params.get("kind") or ""
    parts = packaged().features.get(kind, {})
    on = _on(kind) if context.info_name == "remove" else None
    return _matching((part for part in parts.values() if on is None or part.name in on), incomplete)


def several(kind: str) -> Callable[[str], Found]:
    """Completes the last name of a comma-separated list."""

    def complete(incomplete: str) -> Found:
        done, comma, last = incomplete.rpartition(",")
        found = _matching(packaged().features[kind].values(), last)
        return [(f"{done}{comma}{name}", description) for name, description in found]

    return complete


def _on(kind: str) -> tuple[str, ...] | None:
    from scaffold.project import find_root, open_project

    try:
        return open_project(find_root(Path.cwd())).answers.on(kind)
    except (ScaffoldError, OSError):
        return None


def _matching(parts: Iterable[Part], incomplete: str) -> Found:
    return [(part.name, part.description) for part in parts if part.name.startswith(incomplete)]
