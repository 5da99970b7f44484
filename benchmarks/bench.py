"""Measure ours, the plain loop and the peers, in turns, and print one table: `make bench`, `make bench ROW=off`.

Ratios are taken within a round and their median is printed, with the middle half of them. One thread, CPU.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import models
import torch
from table import Row, markdown, measure

# The files of rows beside this one.
ROWS = ("steps", "memory", "growth", "processes", "distributed", "checkpoint")
ROOT = Path(__file__).parent.parent
# The pages that carry figures, each between two marks, and the rows they show (none: all).
PAGES: dict[str, tuple[str, ...]] = {
    "docs/benchmarks.md": (),
    "README.md": ("off", "defaults", "logs", "validation", "import"),
}
BEGIN, END = "<!-- written by `make bench WRITE=1` -->", "<!-- end of what is written -->"


def machine() -> str:
    """What was measured on, in a line."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    kind = names[0].split(":", 1)[1].strip() if names else platform.machine()
    return f"{kind}, {os.cpu_count()} cores, one thread used, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def page(rows: Iterable[Row]) -> str:
    """The table, with when, where and how it was made."""
    return f"{date.today()}, {machine()}, `make bench`.\n\n{markdown(rows)}"


def write(rows: list[Row]) -> None:
    """Put the tables between their marks."""
    for name, keys in PAGES.items():
        text = (ROOT / name).read_text()
        before, rest = text.split(BEGIN, 1)
        shown = [row for row in rows if not keys or row.key in keys]
        (ROOT / name).write_text(f"{before}{BEGIN}\n{page(shown)}\n{END}{rest.split(END, 1)[1]}")


def every_row() -> list[Row]:
    return [row for name in ROWS for row in importlib.import_module(name).rows()]


def chosen(keys: list[str]) -> list[Row]:
    rows = every_row()
    unknown = set(keys) - {row.key for row in rows}
    if unknown:
        raise SystemExit(
            f"no row {', '.join(sorted(unknown))}. There are: {', '.join(r.key for r in rows)}."
        )
    return [row for row in rows if not keys or row.key in keys]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="keys of rows; all if none is given")
    parser.add_argument("--rounds", type=int, help="play so many instead of what each row asks for")
    parser.add_argument(
        "--write", action="store_true", help=f"put the table into {', '.join(PAGES)}"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count steps in CPU time, on a machine busy with other things",
    )
    options = parser.parse_args()
    if options.write and options.rows:
        raise SystemExit("--write wants all rows, so that the pages show one run.")
    if options.cpu_time:
        models.clock = time.process_time
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # notices of the peers would bury the table
    rows = chosen(options.rows)
    for row in rows:
        row.rounds = options.rounds or row.rounds
    measure(rows)
    print(page(rows))
    if options.write:
        write(rows)


if __name__ == "__main__":
    main()
