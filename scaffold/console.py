"""What the user reads: short lines, the same in a pipe and without colour."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import typer

from scaffold import __version__
from scaffold.answers import Answers
from scaffold.errors import CancelledError
from scaffold.files import Tree


def say(line: str = "", *, dim: bool = False, bold: bool = False) -> None:
    typer.secho(line, dim=dim or None, bold=bold or None)


def say_json(data: Mapping[str, Any]) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False))


def title(name: str) -> None:
    say(f"scaffold {__version__}: a new project `{name}`", bold=True)


def fail(error: Exception) -> None:
    first, *rest = _reason(error).splitlines() or ["unknown error"]
    mark = "" if isinstance(error, CancelledError) else "error: "
    red = typer.style(mark, fg="red") if sys.stderr.isatty() else mark
    print(f"{red}{first}", *(f"  {line}" for line in rest[:2]), sep="\n", file=sys.stderr)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def created(answers: Answers, tree: Tree, *, dry_run: bool, git: bool, as_json: bool) -> None:
    next_command = f"cd {answers.name} && python train.py"
    if as_json:
        paths = sorted(tree)
        say_json(
            {"project": answers.name, "dry_run": dry_run, "files": paths, "next": next_command}
        )
    elif dry_run:
        for path in sorted(tree):
            say(f"  + {answers.name}/{path}")
        say(f"{len(tree)} files, nothing written")
    else:
        say(f"Created `{answers.name}` from `{answers.task}`", bold=True)
        say(f"  callbacks  {', '.join(answers.on('callback')) or 'none'}")
        say(f"  loggers    {', '.join(answers.on('logger')) or 'none'}")
        repository = ", a git repository" if git else ""
        say(f"  {len(tree)} files{repository}; `scaffold list` shows what can be added")
        say()
        say(next_command, bold=True)
