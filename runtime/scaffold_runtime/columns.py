"""Rows of text as the lines of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """A line for each row, with columns below each other; `right` says which of them end there, as numbers do."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [*right, *repeat(False, len(widths))]
    return ["  ".join(map(_cell, row, widths, sides)).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
