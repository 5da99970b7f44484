"""What a project was made from: its answers, kept in `.scaffold/answers.yml`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from scaffold import __version__
from scaffold.catalogue import KINDS, Catalogue, Part
from scaffold.names import check_name, one_line, package_name

SCHEMA = 1
FLAGS = {"callbacks": "callback", "loggers": "logger", "strategy": "strategy", "extras": "extra"}


@dataclass(frozen=True)
class Answers:
    name: str
    task: str
    features: Mapping[str, tuple[str, ...]]
    author: str = ""
    description: str = ""
    runtime: str = ""  # empty: the compatible range; else a version, a path or `vendored`
    version: str = __version__
    created: str = __version__  # the version that wrote the project first
    command: str = ""  # and the line that made it

    @property
    def package(self) -> str:
        return package_name(self.name)

    def on(self, kind: str) -> tuple[str, ...]:
        return self.features.get(kind, ())

    def parts(self, catalogue: Catalogue) -> list[Part]:
        """The folders to render, the more special ones later."""
        features = [catalogue.feature(kind, name) for kind in KINDS for name in self.on(kind)]
        return [catalogue.project, catalogue.task(self.task), *features]

    def with_feature(self, kind: str, *names: str) -> "Answers":
        return self._with(kind, sorted({*self.on(kind), *names}))

    def without_feature(self, kind: str, name: str) -> "Answers":
        return self._with(kind, [each for each in self.on(kind) if each != name])

    def _with(self, kind: str, names: list[str]) -> "Answers":
        return replace(self, features={**self.features, kind: tuple(names)})


def default_answers(name: str, catalogue: Catalogue) -> Answers:
    check_name(name)
    task = next(part.name for part in catalogue.tasks.values() if part.default)
    features = {
        kind: tuple(part.name for part in parts.values() if part.default)
        for kind, parts in catalogue.features.items()
    }
    return Answers(name, task, features)


def command(answers: Answers) -> str:
    """The line that makes the same project again."""
    chosen = [
        f"--{flag} {','.join(answers.on(kind)) or 'none'}"
        for flag, kind in FLAGS.items()
        if answers.on(kind) or kind in ("callback", "logger")  # on by default, so said when off
    ]
    return " ".join([f"scaffold new {answers.name} --task {answers.task}", *chosen])


def to_yaml(answers: Answers) -> bytes:
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "version": answers.version,
        "name": answers.name,
        "task": answers.task,
        **{kind: list(answers.on(kind)) for kind in KINDS},
        "description": one_line(answers.description),
        "author": one_line(answers.author),
        "runtime": answers.runtime,
        "created": answers.created,
        "command": answers.command,
    }
    head = b"# What this project was made from. `scaffold add`, `remove` and `update` keep it.\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    return head + text.encode()
