"""The questions of `scaffold new`, asked by Copier on a terminal."""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from scaffold.answers import Answers
from scaffold.catalogue import Catalogue, Part
from scaffold.errors import CancelledError


def on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(answers: Answers, catalogue: Catalogue) -> Answers:
    """The user's answers, with `answers` as the defaults."""
    from copier import Settings, run_copy

    questions = catalogue.root / "questions"
    with TemporaryDirectory(prefix="scaffold-") as scratch:
        given = {"defaults": _defaults(answers, catalogue), "choices": _choices(catalogue)}
        try:
            run_copy(str(questions), scratch, given, settings=Settings(), quiet=True)
        except KeyboardInterrupt:
            raise CancelledError("cancelled, nothing was written") from None
        said = yaml.safe_load(Path(scratch, "answers.yml").read_bytes())
    features = {
        **catalogue.defaults(catalogue.task(said["task"])),
        "callback": tuple(sorted(said["callbacks"])),
        "logger": tuple(sorted(said["loggers"])),
    }
    task, author, description = said["task"], said["author"], said["description"]
    return replace(answers, task=task, features=features, author=author, description=description)


def _defaults(answers: Answers, catalogue: Catalogue) -> dict[str, Any]:
    features = {task.name: catalogue.defaults(task) for task in catalogue.tasks.values()}
    return {
        "task": answers.task,
        "features": features,
        "author": answers.author,
        "description": answers.description,
    }


def _choices(catalogue: Catalogue) -> dict[str, dict[str, str]]:
    kinds = {"task": catalogue.tasks, **catalogue.features}
    return {kind: _labels(parts) for kind, parts in kinds.items()}


def _labels(parts: dict[str, Part]) -> dict[str, str]:
    width = max(map(len, parts), default=0)
    return {f"{name:<{width}}  {part.description}": name for name, part in parts.items()}
