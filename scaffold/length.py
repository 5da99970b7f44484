"""How Python is formatted: the line length of a project, and what a formatter may change."""

import ast
import re
import tokenize
from dataclasses import replace
from functools import cache
from io import StringIO

from scaffold.files import Disk, File
from scaffold.runtime import PACKAGE

LINE_LENGTH, LARGEST = 88, 64 * 1024
SAID = re.compile(rb"(?m)^line-length\s*=\s*([1-9]\d{0,2})\b")  # to black, else to ruff


@cache
def formatted(data: bytes, length: int = LINE_LENGTH, *, commas: bool = True) -> bytes:
    """As black writes it; without `commas`, also where a last comma keeps a call on many lines.

    Raises:
        ValueError: if it is not Python.
    """
    import black

    mode = black.Mode(line_length=length, magic_trailing_comma=commas)
    return black.format_str(data.decode(), mode=mode).encode()


@cache
def meaning(data: bytes) -> tuple[str, list[str]] | None:
    """What no formatter changes: the code and its comments; None of what is no Python, or too long to compare."""
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
    found = disk.get("pyproject.toml")
    said = SAID.search(found.data) if isinstance(found, File) else None
    return int(said[1]) if said else LINE_LENGTH


def at_length(path: str, file: File, length: int) -> File:
    """A generated file as it would be in a project of this length."""
    if length == LINE_LENGTH or not path.endswith(".py") or path.startswith(f"{PACKAGE}/"):
        return file
    try:
        return replace(file, data=formatted(file.data, length))
    except (ValueError, RecursionError):  # what is no Python has no length
        return file
