"""Stubs of the user's own callback, logger, module or data module, with test and config.

They are the user's from the start: no later change touches them, so they are not in the lock.
"""

import keyword

from scaffold.answers import Answers
from scaffold.catalogue import Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File, Found
from scaffold.names import SHAPE, one_line, package_name, pick
from scaffold.package import check_package
from scaffold.plan import Plan
from scaffold.project import Project
from scaffold.render import polish
from scaffold.transition import Proposal

STUBS = ["callback", "logger", "module", "datamodule"]
BESIDE = {"module": "configs/model.yaml", "datamodule": "configs/data.yaml"}


def stub(project: Project, kind: str, name: str, catalogue: Catalogue) -> Proposal:
    folder = catalogue.root / "stubs" / pick(kind, STUBS, "stub")
    disk, plan = Disk(project.root), Plan(dict(project.lock))
    words = _words(name, project.answers, catalogue)
    words["TheArguments"] = _arguments(disk.get(BESIDE.get(kind, "")))
    for source in sorted(folder.rglob("*.jinja")):
        path = _replaced(source.relative_to(folder).as_posix().removesuffix(".jinja"), words)
        if disk.get(path):
            raise ScaffoldError(f"`{path}` exists, choose another name")
        text = _sorted_imports(_replaced(source.read_text(), words), project.answers.package)
        plan.changes[path] = polish(path, File(text.encode()))
        plan.said.append((path, "create", "yours"))
    check_package(project, plan)
    return Proposal(project.root, plan, disk, {})


def _words(name: str, answers: Answers, catalogue: Catalogue) -> dict[str, str]:
    """What stands in a stub, and what it becomes."""
    stem = package_name(name)
    if not SHAPE.fullmatch(name) or keyword.iskeyword(stem):
        raise ScaffoldError(f"`{one_line(name, 30)}` cannot be a module of Python, try `my-own`")
    task = catalogue.task(answers.task)
    return {
        "MyStub": "".join(word.capitalize() for word in stem.split("_")),
        "my_stub": stem,
        "my_package": answers.package,
        "TheModel": task.model,
        "TheData": task.data,
    }


def _arguments(found: Found) -> str:
    """The arguments that the project has for its first model or data: a second one begins with them."""
    text = found.data.decode(errors="replace") if isinstance(found, File) else ""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(f"\n  {line}" for line in lines) or " {}"


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, becomes in words.items():
        text = text.replace(word, becomes)
    return text


def _sorted_imports(text: str, package: str) -> str:
    """The project's own imports in order, which depends on the chosen name."""
    lines = text.splitlines(keepends=True)
    own = [number for number, line in enumerate(lines) if line.startswith(f"from {package}.")]
    for number, line in zip(own, sorted(lines[number] for number in own), strict=True):
        lines[number] = line
    return "".join(lines)
