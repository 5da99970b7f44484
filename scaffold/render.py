"""Renders answers to files: Jinja fills in, black formats, Python parses. Copier renders a team's own template.

Template sources end in `.jinja`, call the project's package `my_package`, and a dotfile `dot_name`:
so they are valid Python before rendering, and packaging tools neither hide nor compile them.
"""

import ast
import json
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaffold.answers import Answers
from scaffold.catalogue import KINDS, Catalogue, Part
from scaffold.errors import ScaffoldError
from scaffold.files import File, Tree
from scaffold.length import formatted
from scaffold.lock import Entry, Lock
from scaffold.own import place_in, render_own
from scaffold.runtime import VENDORED, copied, requirements

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

NOTHING: Lock = {}


def digest(answers: Answers, catalogue: Catalogue) -> str:
    """A hash of all template files: a `git pull` or a newer plugin changes it, but not the version. Empty for a
    team's own template."""
    if answers.template:
        return ""
    found = sha256(catalogue.version.encode())
    for tree in (*catalogue.sources, copied(answers.runtime)):
        for path, file in sorted(tree.items()):
            if not path.endswith(".pyc"):
                found.update(f"{path} {file.hash}\n".encode())
    return found.hexdigest()[:16]


def is_current(answers: Answers, catalogue: Catalogue) -> bool:
    """Whether the project was rendered from exactly these templates; False for a team's own, which may change."""
    return not answers.template and answers.templates == digest(answers, catalogue)


def render(
    answers: Answers, catalogue: Catalogue, still_used: Sequence[Part] = (), base: Lock = NOTHING
) -> Tree:
    """All files of a project.

    Args:
        still_used: features that are off, but whose packages the user's files still need.
        base: the last render; files that did not change are not formatted again.
    """
    if answers.template:
        return render_own(answers.template, answers.template_answers)
    parts = answers.parts(catalogue)
    said, tree = variables(answers, parts, still_used), dict[str, File]()
    for path, source in sorted(sources(parts, answers.package).items()):
        data = _fill(source, said) if source.suffix == ".jinja" else source.read_bytes()
        file = File(data, executable=bool(source.stat().st_mode & 0o100))
        tree[path] = polish(path, file, base.get(path))
    return {**tree, **copied(answers.runtime)}


def variables(
    answers: Answers, parts: list[Part], still_used: Sequence[Part] = ()
) -> dict[str, Any]:
    """The variables of templates."""
    _, task, *features = parts
    trainer: dict[str, Any] = {}
    for part in parts:
        trainer |= part.trainer
    return {
        "name": answers.name,
        "package": answers.package,
        "description": answers.description,
        "author": answers.author,
        "vendored": answers.runtime == VENDORED,
        "created": answers.created,
        "command": answers.command,
        "requirements": sorted({*requirements(answers.runtime), *task.requirements}),
        "feature_requirements": sorted(
            {line for part in (*features, *still_used) for line in part.requirements}
            - {*task.requirements}
        ),
        "trainer": trainer,
        "monitor": task.monitor,
        "mode": task.mode,
        "model": answers.classes(task)["model"],
        "data": answers.classes(task)["data"],
        "features": {kind: list(answers.on(kind)) for kind in KINDS},
    }


def polish(path: str, file: File, last: Entry | None = None) -> File:
    """Format Python with black, and reject what does not parse; skipped if equal to `last`, which was formatted."""
    if not path.endswith(".py") or (last and last.file == file):
        return file
    try:
        data = formatted(file.data)
        ast.parse(data)
    except (ValueError, SyntaxError) as error:
        raise ScaffoldError(f"the template of `{path}` is not valid Python: {error}") from None
    return File(data, file.executable)


def _fill(source: Path, said: dict[str, Any]) -> bytes:
    """A template with the names and values of a project."""
    from jinja2 import Template, TemplateError

    environment = _environment()
    try:
        text = source.read_text(encoding="utf-8").replace("my_package", said["package"])
        code = environment.compile(text, filename=str(source))
        filled = Template.from_code(environment, code, environment.globals).render(said)
    except (TemplateError, TypeError, ValueError) as error:
        where = place_in(source.parent, error) or f", `{source.name}`"
        raise ScaffoldError(
            f"cannot render a template in {source.parent}{where}: {error}"
        ) from error
    return filled.encode()


@cache
def _environment() -> "SandboxedEnvironment":
    """Strict, sandboxed as in Copier, and with the filter that quotes a text for TOML and YAML."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["to_json"] = json.dumps
    return environment


def paths(part: Part, package: str) -> list[str]:
    """The files of a project that come from this part, found without rendering."""
    return sorted(sources([part], package))


def sources(parts: Iterable[Part], package: str) -> dict[str, Path]:
    """The template of each file; later parts override files of earlier ones."""
    found = (each for part in parts for each in part.templates.items())
    return {_place(path, package): source for path, source in found}


def _place(path: str, package: str) -> str:
    words = (package if word == "my_package" else word for word in path.split("/"))
    named = "/".join(f".{word[4:]}" if word.startswith("dot_") else word for word in words)
    return named.removesuffix(".jinja")
