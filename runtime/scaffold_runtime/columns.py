"""Aligning rows of text as a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """A line for each row, with aligned columns; `right` says which are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = zip(widths, chain(right, repeat(False)), strict=False)
    forms = [f"{'<>'[ends]}{width}" for width, ends in sides]
    return ["  ".join(map(format, row, forms)).rstrip() for row in rows]
