"""The line length of a project, where that is another than the templates have."""

import re
from dataclasses import replace
from functools import cache

from scaffold.files import Disk, File, Odd
from scaffold.merge import is_same_text
from scaffold.runtime import PACKAGE

LINE_LENGTH = 88
SAID = re.compile(rb"(?m)^line-length\s*=\s*([1-9]\d{0,2})\b")  # to black, else to ruff


@cache
def formatted(data: bytes, length: int = LINE_LENGTH) -> bytes:
    """As black writes it.

    Raises:
        ValueError: if it is not Python.
    """
    import black

    return black.format_str(data.decode(), mode=black.Mode(line_length=length)).encode()


def own_length(disk: Disk) -> int:
    found = disk.get("pyproject.toml")
    said = SAID.search(found.data) if isinstance(found, File) else None
    return int(said[1]) if said else LINE_LENGTH


def at_length(path: str, file: File, disk: Disk, length: int) -> File:
    """A generated file as it would be in a project of this length; in ours where the user's is not kept so."""
    user = disk.get(path)
    ours = length == LINE_LENGTH or not path.endswith(".py") or path.startswith(f"{PACKAGE}/")
    if ours or isinstance(user, Odd):
        return file
    try:
        if user and not is_same_text(user.data, formatted(user.data, length)):
            return file
        return replace(file, data=formatted(file.data, length))
    except (ValueError, RecursionError):  # what is no Python has no length
        return file
