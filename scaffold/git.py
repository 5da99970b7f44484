"""The few uses of git: never through a shell, and a failure is never an exception."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

AT_THE_TOP = {
    ".github/workflows/ci.yml": "GitHub only runs those of {top}: move it to .github/workflows/{name}.yml there, "
    "with `defaults: {{run: {{working-directory: {here}}}}}` in it",
    ".pre-commit-config.yaml": "pre-commit only reads the one of {top}: move it there, "
    "as one for all projects, or with `files: ^{here}/` for this one",
}


def git(
    *words: str, inside: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes] | None:
    """Run git, without the GIT_ variables of the environment; None if git is not installed."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env = {**plain, **(env or {})}
    try:
        return subprocess.run(["git", *words], cwd=inside, env=env, capture_output=True)
    except OSError:
        return None


def init(project: Path) -> bool:
    """Create a repository unless inside an existing one; True if it was created."""
    inside = git("rev-parse", "--is-inside-work-tree", inside=project)
    if inside is None or inside.returncode == 0:
        return False
    started = git("init", "--quiet", "--initial-branch=main", inside=project)
    return started is not None and started.returncode == 0


def out_of_place(project: Path, paths: Iterable[str]) -> dict[str, str]:
    """Of `paths`, those that only work at the root of the repository, if the project is below it; with the fix."""
    found = {path: fix for path, fix in AT_THE_TOP.items() if path in paths}
    inside = project if project.is_dir() else project.parent
    shown = git("rev-parse", "--show-toplevel", inside=inside) if found else None
    if shown is None or shown.returncode:
        return {}
    top = os.fsdecode(shown.stdout).rstrip("\n")
    here = Path(os.path.relpath(project.resolve(), top)).as_posix()
    names = {"top": top, "here": here, "name": here.replace("/", "-")}
    return {path: fix.format(**names) for path, fix in found.items() if here != "."}


def unmerged(project: Path) -> list[str]:
    """Paths in the project that are unmerged in git's index."""
    listed = git("ls-files", "--unmerged", "-z", inside=project)
    if listed is None or listed.returncode:
        return []
    rows = listed.stdout.decode(errors="surrogateescape").split("\0")
    return sorted({row.partition("\t")[2] for row in rows if row})


def author() -> str:
    name = git("config", "--get", "user.name", inside=Path.cwd())
    return name.stdout.decode(errors="replace").strip() if name else ""
