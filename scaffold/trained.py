"""Which classes a project trains, and where they are written: they get renamed and moved like any code."""

import ast
import re
from collections.abc import Iterable, Iterator
from importlib.util import decode_source, resolve_name
from pathlib import Path

from scaffold.errors import ScaffoldError

COOKIE = re.compile(r"\A((?:[ \t\f]*(?:#.*)?\n)??)[ \t\f]*#.*coding[:=][ \t]*[-\w.].*\n")


def trained(root: Path) -> dict[str, tuple[str, str]]:
    return named_in_script(_bytes(root / "train.py"))


def named_in_script(script: bytes) -> dict[str, tuple[str, str]]:
    """Module and name of what `run(Model, Data)` in `train.py` gets, by `model` and `data`."""
    tree = _parsed(script)
    meant = dict(_bound(tree, "train", "train"))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _full(call.func, meant).startswith("scaffold_runtime."):
            given = (_full(argument, meant).rpartition(".") for argument in call.args)
            pairs = zip(("model", "data"), given, strict=False)
            if named := {part: (module, name) for part, (module, _, name) in pairs if module}:
                return named
    return {}


def check_written(root: Path, classes: Iterable[tuple[str, str]]) -> None:
    """Code that imports them can be written; packages that are installed are taken at their word."""
    for module, name in classes:
        top = root / module.partition(".")[0]
        if top.is_dir() or top.with_suffix(".py").is_file():
            _home(root, module, name)


def copied(root: Path, module: str, name: str, becomes: str) -> str:
    """The file with this class, which gets a new name; what it imports by dots it imports in full."""
    path, package = _home(root, module, name)
    text = COOKIE.sub(r"\1", decode_source(_bytes(path)))  # the copy is UTF-8
    lines = text.split("\n")  # as Python counts them: a form feed ends none
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            full, line = _origin(node, package), lines[node.lineno - 1]
            lines[node.lineno - 1] = re.sub(r"from\s+\.[\w.]*", f"from {full}", line, count=1)
    return re.sub(rf"\b{name}\b", becomes, "\n".join(lines))


def names_in(text: str) -> list[str]:
    """What its imports and classes are called, each as often as it is bound."""
    return [name for name, _ in _bound(ast.parse(text), "", "")]


def _home(root: Path, module: str, name: str) -> tuple[Path, str]:
    """The file that holds the class and the package of that file, also where others import it from."""
    seen, place = set[str](), f"{module}.{name}"
    while place and place not in seen:
        seen.add(place)
        origin, _, own = place.rpartition(".")
        path, package = root / f"{origin.replace('.', '/')}.py", origin.rpartition(".")[0]
        if not path.is_file():
            path, package = path.with_suffix("") / "__init__.py", origin
        tree = _parsed(_bytes(path))
        if any(isinstance(node, ast.ClassDef) and node.name == own for node in ast.walk(tree)):
            return path, package
        place = dict(_bound(tree, origin, package)).get(own, "")
    raise ScaffoldError(
        f"there is no `class {name}` in `{module.replace('.', '/')}.py`, or Python cannot read it\n"
        "in `train.py`, import it from the project file that defines it, for `run(Model, Data)`"
    )


def _bound(tree: ast.Module, module: str, package: str) -> Iterator[tuple[str, str]]:
    """Names that a file has for classes and modules, each with what it means in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            yield from ((each.asname or each.name, f"{origin}.{each.name}") for each in node.names)
        elif isinstance(node, ast.Import):
            yield from ((each.asname, each.name) for each in node.names if each.asname)
        elif isinstance(node, ast.ClassDef):
            yield node.name, f"{module}.{node.name}"


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The module that a line imports from, with its dots resolved."""
    try:
        return resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # more dots than packages
        return ""


def _full(node: ast.expr, meant: dict[str, str]) -> str:
    """`Net` or `model.Net` in full; empty for all that is not a name."""
    head, dot, rest = ast.unparse(node).partition(".")
    return f"{meant.get(head, head)}{dot}{rest}" if head.isidentifier() else ""


def _parsed(code: bytes) -> ast.Module:
    """Empty where it is not Python."""
    try:
        return ast.parse(decode_source(code))
    except (ValueError, SyntaxError, RecursionError, LookupError):
        return ast.Module([], [])


def _bytes(path: Path) -> bytes:
    """Empty where no file can be read."""
    try:
        return path.read_bytes() if path.is_file() else b""  # a pipe would be read for ever
    except OSError:
        return b""
