"""Finds the classes that a project trains, since the user may rename and move them."""

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
    """Module and class of the `model` and `data` that `train.py` passes to `run(Model, Data)`."""
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
    """Raise a ScaffoldError if a class is not in the project's files; those of installed packages are not checked."""
    for module, name in classes:
        top = root / module.partition(".")[0]
        if top.is_dir() or top.with_suffix(".py").is_file():
            _home(root, module, name)


def copied(root: Path, module: str, name: str, becomes: str) -> str:
    """The source with this class, renamed to `becomes`, and with absolute instead of relative imports."""
    path, package = _home(root, module, name)
    text = COOKIE.sub(r"\1", decode_source(_bytes(path)))  # the copy is UTF-8
    lines = text.split("\n")  # not splitlines: to Python, a form feed ends no line
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            full, line = _origin(node, package), lines[node.lineno - 1]
            lines[node.lineno - 1] = re.sub(r"from\s+\.[\w.]*", f"from {full}", line, count=1)
    return re.sub(rf"\b{name}\b", becomes, "\n".join(lines))


def names_in(text: str) -> list[str]:
    """The names that imports and classes bind, with repetitions."""
    return [name for name, _ in _bound(ast.parse(text), "", "")]


def _home(root: Path, module: str, name: str) -> tuple[Path, str]:
    """The file that defines the class, and its package; follows imports from `module`."""
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
    """The names that a file binds to classes and modules, each with its full dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            yield from ((each.asname or each.name, f"{origin}.{each.name}") for each in node.names)
        elif isinstance(node, ast.Import):
            yield from ((each.asname, each.name) for each in node.names if each.asname)
        elif isinstance(node, ast.ClassDef):
            yield node.name, f"{module}.{node.name}"


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The module that an import statement imports from, with leading dots resolved."""
    try:
        return resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # more dots than packages
        return ""


def _full(node: ast.expr, meant: dict[str, str]) -> str:
    """The full dotted name of `Net` or `model.Net`; empty if it is not a name."""
    head, dot, rest = ast.unparse(node).partition(".")
    return f"{meant.get(head, head)}{dot}{rest}" if head.isidentifier() else ""


def _parsed(code: bytes) -> ast.Module:
    """The syntax tree; empty if it is not Python."""
    try:
        return ast.parse(decode_source(code))
    except (ValueError, SyntaxError, RecursionError, LookupError):
        return ast.Module([], [])


def _bytes(path: Path) -> bytes:
    """The content of a file; empty if it cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else b""  # reading a pipe would block
    except OSError:
        return b""
