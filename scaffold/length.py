"""Formatting of Python: the line length of a project, and comparison regardless of formatting."""

import ast
import re
import tokenize
from dataclasses import replace
from functools import cache
from io import StringIO

from scaffold.files import Disk, File
from scaffold.runtime import PACKAGE

LINE_LENGTH, LARGEST = 88, 64 * 1024
SETTING = re.compile(rb"(?m)^line-length\s*=\s*([1-9]\d{0,2})\b")  # of black, else of ruff


@cache
def formatted(data: bytes, length: int = LINE_LENGTH, *, commas: bool = True) -> bytes:
    """Formatted by black; without `commas`, trailing commas do not keep a call on several lines.

    Raises:
        ValueError: if it is not Python.
    """
    import black

    mode = black.Mode(line_length=length, magic_trailing_comma=commas)
    return black.format_str(data.decode(), mode=mode).encode()


@cache
def meaning(data: bytes) -> tuple[str, list[str]] | None:
    """What no formatter changes: the syntax tree and the comments; None if not Python, or too long to compare."""
    if len(data) > LARGEST:
        return None
    try:
        text = formatted(data, commas=False).decode()
        tokens = tokenize.generate_tokens(StringIO(text).readline)
        comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
        return ast.dump(ast.parse(text)), comments
    except (ValueError, SyntaxError, RecursionError):
        return None


def own_length(disk: Disk) -> int:
    """The line length in the project's pyproject.toml, else the default."""
    file = disk.get("pyproject.toml")
    found = SETTING.search(file.data) if isinstance(file, File) else None
    return int(found[1]) if found else LINE_LENGTH


def at_length(path: str, file: File, length: int) -> File:
    """A generated file, formatted for this line length."""
    if length == LINE_LENGTH or not path.endswith(".py") or path.startswith(f"{PACKAGE}/"):
        return file
    try:
        return replace(file, data=formatted(file.data, length))
    except (ValueError, RecursionError):  # not valid Python
        return file
