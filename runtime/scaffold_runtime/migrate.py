"""Change imports of Lightning to imports of scaffold_runtime: `python -m scaffold_runtime.migrate PATH ...`.

It shows what would change in Python files, notebooks and class paths of YAML files; `--write` changes them. It
lists names that do not exist here, with file and line.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

LIGHTNING = re.compile(r"(?:pytorch_lightning|lightning\.pytorch|lightning)(?=\.|$)")
FABRIC = re.compile(r"lightning_fabric(?=\.|$)")
FROM = re.compile(rb"from\s+([\w.]+)")
CLASS_PATH = re.compile(r"(?<![\w./-])(?:pytorch_lightning|lightning)(?:\.\w+)+")
CLASS = re.compile(r"(?:pytorch_lightning|lightning)(?:\.\w+)*\.[A-Z]\w*")
MAGIC = re.compile(r"^(\s*)[%!].*", re.MULTILINE)  # in a cell of a notebook
HERE = "scaffold_runtime"
HOMES = ["", ".callbacks", ".loggers", ".strategies", ".profilers", ".plugins", ".accelerators"]
HOMES += [".cli", ".utilities", ".utilities.types", ".core.mixins", ".loggers.logger"]
HOMES += [".plugins.environments"]
INSTEAD = {  # for internals of Lightning that several packages use, and names of earlier versions
    "DDPPlugin": "scaffold_runtime.strategies.DDPStrategy",
    "LightningLoggerBase": "scaffold_runtime.loggers.Logger",
    "ProgressBarBase": "scaffold_runtime.callbacks.ProgressBar",
    "_AcceleratorConnector": "scaffold_runtime.accelerators.select_accelerator(accelerator)",
    "_load": "torch.load(path)",
    "apply_to_collection": "lightning_utilities.core.apply_func.apply_to_collection",
    "get_filesystem": "fsspec.core.url_to_fs(path)[0]",
    "num_cuda_devices": "torch.cuda.device_count()",
}
ENDINGS = (".py", ".ipynb", ".yaml", ".yml")

Places = list[tuple[int, str]]
"""Line numbers, and what to report about them."""


def main(arguments: list[str] | None = None) -> int:
    """Print or write the changes; 0 if every name exists here, 1 if not, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(f"python -m {HERE}.migrate", description=__doc__)
    parser.add_argument("path", type=Path, nargs="+", help="a file, or a folder with files")
    parser.add_argument("--write", action="store_true", help="change the files")
    given = parser.parse_args(arguments)
    for path in given.path:
        if not path.exists():
            parser.error(f"there is no {path}.")
    changed = places = 0
    for file in files(given.path):
        try:
            with tokenize.open(file) as opened:
                encoding = opened.encoding
            before = file.read_bytes().decode(encoding)
            after, said = migrate(before, file.suffix)
        except (SyntaxError, ValueError, OSError) as error:
            before, after, said = "", "", [(1, f"cannot be read: {error}")]
        if after != before and given.write:
            file.write_bytes(after.encode(encoding))
        elif after != before:
            old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(old, new, str(file), str(file), n=0))
        for line, what in said:
            sys.stdout.write(f"{file}:{line}: {what}\n")
        changed, places = changed + (after != before), places + len(said)
    done = "Files changed" if given.write else "Files that --write would change"
    sys.stdout.write(f"{done}: {changed}. Places to look at: {places}.\n")
    return bool(places)


def files(paths: list[Path]) -> Iterator[Path]:
    """The given files, and those in given folders, except hidden ones and virtual environments."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for inner in sorted(path.iterdir()):
            skipped = inner.name.startswith(".") or inner.is_symlink()
            if inner.is_dir() and not skipped and not (inner / "pyvenv.cfg").exists():
                yield from files([inner])
            elif inner.is_file() and inner.suffix in ENDINGS and not skipped:
                yield inner


def migrate(text: str, suffix: str) -> tuple[str, Places]:
    """The migrated text of a file, and the names in it that do not exist here.

    Raises:
        SyntaxError, ValueError: if it is not in the format that its suffix says.
    """
    if suffix == ".ipynb":
        return in_notebook(text)
    return in_yaml(text) if suffix in (".yaml", ".yml") else Source(text, {}).changed()


class Source:
    """Python code, with the changes to make in it and what to report about it.

    Args:
        text: the code, perhaps with magic commands of a notebook.
        names: from names in earlier cells to what they mean of Lightning. Names that the code imports are added.
    """

    def __init__(self, text: str, names: dict[str, str]) -> None:
        self.lines = text.encode().splitlines(keepends=True)  # as `ast` counts lines, and columns
        self.names = names
        self.edits: list[tuple[int, int, int, str]] = []
        self.said: Places = []
        self.others: set[str] = set()  # names of other packages
        nodes = list(ast.walk(parsed(text)))
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.take_module(alias)
            elif isinstance(node, ast.ImportFrom):
                self.take_names(node, "." * node.level + (node.module or ""))
        for name in self.others:  # imported twice, perhaps in a function: its meaning is ambiguous
            self.names.pop(name, None)
        for node in nodes:
            if isinstance(node, ast.Attribute) and (path := self.meaning(node)):
                self.lacks(path, node.lineno)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.take_class_path(node, node.value)

    def take_module(self, alias: ast.alias) -> None:
        new, name = here(alias.name), alias.asname or alias.name
        if new and "." in name:  # binds the first part only
            new, name = HERE, name.partition(".")[0]
        if not new:
            self.others.add(name)
        elif not self.lacks(new, alias.lineno):
            self.names[name] = new
            end = alias.end_col_offset or 0
            self.edits.append((alias.lineno, alias.col_offset, end, f"{new} as {name}"))

    def take_names(self, node: ast.ImportFrom, module: str) -> None:
        names = [alias.name for alias in node.names]
        if not here(module):
            self.others |= {alias.asname or alias.name for alias in node.names}
            return
        new = home_of(names) if absent(here(module)) else here(module)
        if not new:
            gone = [f"there is no `{name}` of {module} here.{found_in(name)}" for name in names]
            self.said += [(node.lineno, what) for what in gone]
            return
        for alias in node.names:
            path = new if alias.name == "*" else f"{new}.{alias.name}"
            self.names[alias.asname or alias.name] = path
            self.lacks(path, alias.lineno)
        if found := FROM.match(self.lines[node.lineno - 1], node.col_offset):
            self.edits.append((node.lineno, found.start(1), found.end(1), new))
        else:
            self.said.append((node.lineno, f"write `from {new} import` in one line."))

    def take_class_path(self, node: ast.Constant, path: str) -> None:
        """A string that is the path of a class and nothing else, in one line, as in
        `{"class_path": "lightning.pytorch.loggers.CSVLogger"}`."""
        end = node.end_col_offset or 0
        found = self.lines[node.lineno - 1][node.col_offset + 1 : end - 1]
        if (
            CLASS.fullmatch(path)
            and found == path.encode()
            and not self.lacks(here(path), node.lineno)
        ):
            self.edits.append((node.lineno, node.col_offset + 1, end - 1, here(path)))

    def lacks(self, path: str, line: int) -> bool:
        if gone := absent(path):
            self.said.append((line, gone))
        return bool(gone)

    def meaning(self, node: ast.expr) -> str:
        """The path that `L.callbacks.Timer` means if `L` is Lightning's; empty for other names."""
        if isinstance(node, ast.Attribute):
            before = self.meaning(node.value)
            return before and f"{before}.{node.attr}"
        return self.names.get(node.id, "") if isinstance(node, ast.Name) else ""

    def changed(self) -> tuple[str, Places]:
        for line, start, end, new in sorted(self.edits, reverse=True):
            old = self.lines[line - 1]
            self.lines[line - 1] = old[:start] + new.encode() + old[end:]
        return b"".join(self.lines).decode(), sorted(set(self.said))


def parsed(code: str) -> ast.AST:
    with contextlib.suppress(SyntaxError):
        return ast.parse(code)  # first as it is: a line that begins with `%` need not be magic
    return ast.parse(MAGIC.sub(r"\1pass", code))


def in_notebook(text: str) -> tuple[str, Places]:
    notebook, names = json.loads(text), dict[str, str]()
    if not isinstance(notebook, dict) or "cells" not in notebook:
        raise ValueError("it has no cells, as notebooks have since version 4")
    said: Places = []
    same = True
    for number, cell in enumerate(notebook["cells"], start=1):
        before = "".join(cell["source"])
        if cell["cell_type"] != "code" or before.lstrip().startswith("%%"):  # not Python
            continue
        try:
            after, places = Source(before, names).changed()
        except SyntaxError as error:
            after, places = before, [(error.lineno or 1, f"cannot be read: {error.msg}")]
        said += [(line, f"cell {number}: {what}") for line, what in places]
        if after != before:
            whole, same = isinstance(cell["source"], str), False
            cell["source"] = after if whole else after.splitlines(keepends=True)
    end = "\n" if text.endswith("\n") else ""
    return text if same else json.dumps(notebook, indent=1, ensure_ascii=False) + end, said


def in_yaml(text: str) -> tuple[str, Places]:
    said: Places = []

    def moved(path: re.Match[str]) -> str:
        if gone := absent(here(path[0])):
            said.append((text.count("\n", 0, path.start()) + 1, gone))
        return path[0] if gone else here(path[0])

    return CLASS_PATH.sub(moved, text), said


def here(path: str) -> str:
    """The path here of a module or class of Lightning's; empty for other paths."""
    for pattern, home in ((LIGHTNING, HERE), (FABRIC, f"{HERE}.fabric")):
        if pattern.match(path):
            return pattern.sub(home, path, count=1)
    return ""


def absent(path: str) -> str:
    """What to report about a dotted path that does not exist; empty if it does."""
    found = importlib.import_module(HERE)
    parts = path.split(".")
    for count, name in enumerate(parts[1:], start=2):
        part = ".".join(parts[:count])
        try:
            found = getattr(found, name, None) or importlib.import_module(part)
        except ImportError:
            return f"there is no {part}.{found_in(parts[-1])}"
        if not isinstance(found, ModuleType):
            break  # attributes of classes are not checked
    return ""


def found_in(name: str) -> str:
    if name in INSTEAD:
        return f" Write `{INSTEAD[name]}`."
    home = home_of([name])
    return f" `{name}` is in {home}." if home else ""


def home_of(names: list[str]) -> str:
    """The module here that has all these names; empty if there is none."""
    for home in HOMES:
        if all(hasattr(importlib.import_module(HERE + home), name) for name in names):
            return HERE + home
    return ""


if __name__ == "__main__":
    sys.exit(main())
