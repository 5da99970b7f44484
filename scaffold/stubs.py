"""Stubs for the user's own callback, logger, module or data module, with test and config.

They belong to the user: no later change touches them, so they are not in the lock.
"""

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from scaffold.catalogue import LOADER, Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File
from scaffold.length import at_length, own_length
from scaffold.merge import in_crlf
from scaffold.names import check_part, class_name, package_name, pick
from scaffold.package import SECOND, check_package
from scaffold.plan import Plan, is_in_crlf
from scaffold.project import Project
from scaffold.render import polish
from scaffold.trained import check_written, copied, names_in
from scaffold.transition import Proposal

STUBS = ["callback", "logger", "module", "datamodule"]
Classes = Mapping[str, tuple[str, str]]


def stub(project: Project, kind: str, name: str, catalogue: Catalogue) -> Proposal:
    folder = catalogue.root / "stubs" / pick(kind, STUBS, "stub")
    project.check_has_features()
    check_part(name)
    classes = project.answers.classes(catalogue.task(project.answers.task))
    check_written(project.root, classes.values())
    disk, plan = Disk(project.root), Plan(dict(project.lock))
    words = _words(name, project.answers.package, classes)
    more = _second(disk, kind, words, classes) if kind in SECOND else {}
    for source in sorted(folder.rglob("*.jinja")):
        path = _replaced(source.relative_to(folder).as_posix().removesuffix(".jinja"), words)
        text = _replaced(source.read_text(encoding="utf-8"), words)
        more[path] = _sorted_imports(text, project.answers.package)
    crlf, length = is_in_crlf(project.lock, disk), own_length(disk)
    for path, text in more.items():
        _check_free(path, words["MyStub"], text, disk)
        data = at_length(path, polish(path, File(text.encode())), length).data
        plan.changes[path] = File(in_crlf(data) if crlf else data)
        plan.said.append((path, "create", "yours"))
    check_package(project, plan)
    return Proposal(project.root, plan, disk, {})


def _words(name: str, package: str, classes: Classes) -> dict[str, str]:
    """Placeholders in stubs, and their replacements."""
    return {
        "my_package.model import TheModel": " import ".join(classes["model"]),
        "my_package.data import TheData": " import ".join(classes["data"]),
        "MyStub": class_name(name),
        "my_stub": package_name(name),
        "my_package": package,
        "TheModel": classes["model"][1],
        "TheData": classes["data"][1],
    }


def _second(disk: Disk, kind: str, words: dict[str, str], classes: Classes) -> dict[str, str]:
    """The code of a second model or data module: a copy of the first. Sets `TheArguments` to its arguments."""
    part, folder = SECOND[kind]
    named, words["TheArguments"] = _configured(disk, f"configs/{part}.yaml")
    module, _, first = named.rpartition(".") if named else (classes[part][0], "", classes[part][1])
    text = copied(disk.root, module, first, words["MyStub"])
    about = f"# Chosen by `--{part} {words['my_stub']}`; started as a copy of `{first}`.\n"
    return {f"{words['my_package']}/{folder}/{words['my_stub']}.py": about + text}


def _configured(disk: Disk, path: str) -> tuple[str, str]:
    """The class that a config names, or "", and its arguments as lines to put below `init_args:`."""
    found = disk.get(path)
    text = found.data.decode("utf-8-sig", errors="replace") if isinstance(found, File) else ""
    said = _loaded(text)
    if not isinstance(said or {}, dict):
        raise ScaffoldError(f"`{path}` does not hold `key: value` lines of YAML; fix it first")
    named = str((said or {}).get("class_path", ""))
    arguments = (said.get("init_args") if named else said) or {}
    lines = [line for line in text.splitlines() if not line.startswith(("#", "---"))]
    kept = "\n" + textwrap.indent("\n".join(lines).strip("\n"), "  ")
    if not arguments or _loaded(f"x:{kept}") == {"x": arguments}:  # with the user's comments
        return named, kept if arguments else " {}"
    dumped = yaml.safe_dump(arguments, sort_keys=False, allow_unicode=True).rstrip("\n")
    return named, "\n" + textwrap.indent(dumped, "  ")


def _loaded(text: str) -> Any:
    try:
        return yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError) as error:  # a date of month 13 is a ValueError
        return error


def _check_free(path: str, name: str, text: str, disk: Disk) -> None:
    """Refuse to overwrite or shadow a file of the user, or to define a name twice."""
    hiding = (path, path.removesuffix(".py"), f"{path.rpartition('/')[0]}.py")
    if taken := next((each for each in hiding if disk.get(each)), None):
        raise ScaffoldError(f"`{taken}` already exists, choose another name or move it")
    if path.endswith(".py") and names_in(text).count(name) > 1:
        raise ScaffoldError(f"`{name}` means something else in `{path}`, choose another name")


def _replaced(text: str, words: Mapping[str, str]) -> str:
    return re.sub("|".join(words), lambda found: words[found[0]], text)


def _sorted_imports(text: str, package: str) -> str:
    """Sort the imports from the project: their order depends on the chosen name."""
    lines = text.splitlines(keepends=True)
    own = [number for number, line in enumerate(lines) if line.startswith(f"from {package}.")]
    for number, line in zip(own, sorted(lines[number] for number in own), strict=True):
        lines[number] = line
    return "".join(lines)
