"""Renders answers to files: Copier renders into a temporary folder, black formats, Python parses.

Template sources end in `.jinja`, call the project's package `my_package`, and a dotfile `dot_name`:
so they are valid Python before rendering, and packaging tools neither hide nor compile them.
"""

import ast
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scaffold.answers import Answers
from scaffold.catalogue import DESCRIPTIONS, KINDS, Catalogue, Part
from scaffold.errors import ScaffoldError
from scaffold.files import File, Tree, read_tree
from scaffold.length import formatted
from scaffold.lock import Entry, Lock
from scaffold.own import place_in, render_own
from scaffold.runtime import VENDORED, copied, requirements

NOTHING: Lock = {}
JINJA = (b"{{", b"{%", b"{#")
SETTINGS = b"""_subdirectory: files
_exclude: []
_envops: {undefined: jinja2.StrictUndefined, trim_blocks: true, lstrip_blocks: true}
"""


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
    with TemporaryDirectory(prefix="scaffold-") as scratch:
        template, out = Path(scratch, "template"), Path(scratch, "out")
        assemble(parts, answers.package, template)
        out.mkdir()  # if it fails, Copier 9.17 removes the folder, which must exist
        static = _take_static(template / "files")
        _copy(template, out, variables(answers, parts, still_used))
        files = sorted({**static, **read_tree(out)}.items())
        tree = {path: polish(path, file, base.get(path)) for path, file in files}
    return {**tree, **copied(answers.runtime)}


def assemble(parts: Iterable[Part], package: str, template: Path) -> None:
    """Combine the parts into one Copier template; later ones override files of earlier ones."""
    for part in parts:
        for source in _sources(part):
            jinja = source.suffix == ".jinja"
            data = source.read_bytes()
            place = template / "files" / (_place(part, source, package) + ".jinja" * jinja)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data.replace(b"my_package", package.encode()) if jinja else data)
            place.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
    (template / "copier.yml").write_bytes(SETTINGS)


def _take_static(files: Path) -> Tree:
    """Remove and return files without Jinja syntax: Copier runs a git process per file, which is slow."""
    found = {}
    for path, file in read_tree(files).items():
        if not any(mark in file.data for mark in JINJA):
            (files / path).unlink()
            found[path.removesuffix(".jinja")] = file
    return found


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


def _copy(template: Path, out: Path, data: dict[str, Any]) -> None:
    from copier import Settings, run_copy
    from copier.errors import CopierError
    from jinja2 import TemplateError

    try:
        run_copy(str(template), out, data, settings=Settings(), defaults=True, quiet=True)
    except (CopierError, TemplateError, ValueError) as error:
        where = place_in(template / "files", error)
        raise ScaffoldError(f"cannot render the templates{where}: {error}") from error


def paths(part: Part, package: str) -> list[str]:
    """The files of a project that come from this part, found without rendering."""
    return sorted(_place(part, source, package) for source in _sources(part))


def _sources(part: Part) -> list[Path]:
    """Templates end in `.jinja`; other files, such as pictures, are copied as they are."""
    found = sorted(path for path in part.folder.rglob("*") if path.is_file())
    return [path for path in found if path.name not in DESCRIPTIONS and path.suffix != ".pyc"]


def _place(part: Part, source: Path, package: str) -> str:
    path = source.relative_to(part.folder).as_posix().removesuffix(".jinja")
    words = (package if word == "my_package" else word for word in path.split("/"))
    return "/".join(f".{word[4:]}" if word.startswith("dot_") else word for word in words)
