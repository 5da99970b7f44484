"""`python train.py check`: create everything that `configs/` describes, without training."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar

import yaml

from scaffold_runtime.cli.settings import CHOSEN, KINDS, PARTS
from scaffold_runtime.errors import ScaffoldRuntimeError

CHECK = "check"
Made = TypeVar("Made")


def check(make: Callable[[list[str]], Made], folder: Path, words: list[str]) -> Made:
    """Create the objects as configured, and with each file that could be chosen; print every error once.

    Args:
        make: creates model, data, trainer, callbacks and loggers for a command line.
        folder: the folder `configs/`.
        words: the command line.

    Raises:
        SystemExit: with 2 if anything cannot be created.
    """
    made, errors = [], {}
    choices = [[], *choosable(folder)]
    for choice in choices:
        said = io.StringIO()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(said):
                made.append(make([*words, *choice]))
        except SystemExit:  # a parser has printed why
            errors[said.getvalue()] = choice
        except Exception as error:
            errors[f"error: {_reason(error)}\n"] = choice
    if errors:
        sys.stderr.write("".join(errors))
        raise SystemExit(2)
    ways = f"all {len(choices)} ways to run" if len(choices) > 1 else "everything"
    sys.stdout.write(f"configs: OK, {ways} can be created\n")
    return made[0]


def choosable(folder: Path) -> Iterator[list[str]]:
    """Options for each file of `model/` and `data/`, and for each other file that configures a run."""
    for part in CHOSEN:
        for path in sorted((folder / part).glob("*.yaml")):
            yield [f"--{part}", path.stem]
    for path in sorted(folder.rglob("*.yaml")):
        place = path.relative_to(folder).parts
        named = {f"{part}.yaml" for part in PARTS}
        if place[0] not in {*CHOSEN, *KINDS, *named} and _configures(path):
            yield ["--config", path.relative_to(folder.parent).as_posix()]


def _configures(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return True  # using it raises a better error
    return isinstance(content, dict) and not content.keys().isdisjoint((*PARTS, *KINDS))


def _reason(error: Exception) -> str:
    """Where it failed, and why; an error of the runtime already says both."""
    if isinstance(error, ScaffoldRuntimeError):
        return str(error)
    notes = getattr(error, "__notes__", ())
    where = "".join(f"{note.removeprefix('while making ')}: " for note in notes)
    lines = str(error).splitlines() or [""]
    return f"{where}{type(error).__name__}: {lines[0]}"
