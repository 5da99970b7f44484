"""Measure this engine, the plain loop and the peers in turns: `make bench`, `make bench ROWS="new add"`.

Prints one table, with the median and the quartiles of the ratios within a round. One thread, CPU.
With `--write` each row is stored in measured.json as soon as it is done, and the pages show all stored rows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import models
import torch
from table import Row, markdown, measure

# Modules in this folder with `rows()`.
ROWS = ("steps", "memory", "growth", "processes", "distributed", "checkpoint")
ROOT = Path(__file__).parent.parent
# Pages with a table between two marks, and the keys of the rows it shows (none: all).
PAGES: dict[str, tuple[str, ...]] = {
    "docs/benchmarks.md": (),
    "README.md": ("off", "defaults", "logs", "validation", "tensors", "import"),
}
MEASURED = "benchmarks/measured.json"  # per row: date and machine, and the figures
BEGIN, END = "<!-- written by `make bench WRITE=1` -->", "<!-- end of what is written -->"


def machine() -> str:
    """The machine and torch version, in one line."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    kind = names[0].split(":", 1)[1].strip() if names else platform.machine()
    return f"{kind}, {os.cpu_count()} cores, one thread used, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def page(rows: Iterable[Row]) -> str:
    """The table, preceded by date and machine of its rows."""
    rows = list(rows)
    sources = []
    for by in dict.fromkeys(row.by for row in rows):
        of = [f"`{row.key}`" for row in rows if row.by == by]
        sources.append(f"{by}, `make bench`{'' if len(of) == len(rows) else ': ' + ', '.join(of)}.")
    return "\n\n".join([*sources, markdown(rows)])


def kept() -> dict[str, dict[str, Any]]:
    path = ROOT / MEASURED
    return json.loads(path.read_text()) if path.exists() else {}


def recall(rows: Iterable[Row]) -> None:
    """Give rows the figures that were stored earlier."""
    measured = kept()
    for row in rows:
        if row.key in measured:
            row.by, row.figures = measured[row.key]["by"], measured[row.key]["figures"]


def keep(row: Row) -> None:
    """Store a row at once, so that it is not lost if a later row is interrupted."""
    measured = {**kept(), row.key: {"by": row.by, "figures": row.figures}}
    (ROOT / MEASURED).write_text(json.dumps(measured, indent=1) + "\n")


def write(rows: list[Row]) -> None:
    """Write the rows that have figures between the marks of the pages."""
    for name, keys in PAGES.items():
        shown = [row for row in rows if row.figures and (not keys or row.key in keys)]
        if not shown:
            continue
        text = (ROOT / name).read_text()
        before, rest = text.split(BEGIN, 1)
        (ROOT / name).write_text(f"{before}{BEGIN}\n{page(shown)}\n{END}{rest.split(END, 1)[1]}")


def every_row() -> list[Row]:
    return [row for name in ROWS for row in importlib.import_module(name).rows()]


def chosen(rows: list[Row], keys: list[str]) -> list[Row]:
    if unknown := set(keys) - {row.key for row in rows}:
        raise SystemExit(
            f"no row {', '.join(sorted(unknown))}. There are: {', '.join(row.key for row in rows)}."
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
    if options.cpu_time:
        models.clock = time.process_time
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # messages of the peers would hide the table
    rows = every_row()
    wanted = chosen(rows, options.rows)
    if options.write:
        recall(row for row in rows if row not in wanted)
    began = time.monotonic()

    def done(row: Row) -> None:
        row.by = f"{date.today()}, {machine()}"
        took = f"{time.monotonic() - began:.0f} s so far"
        print(f"{row.key}: {row.base()}, {row.reached()}; {took}", file=sys.stderr, flush=True)
        if options.write:
            keep(row)
            write(rows)

    for row in wanted:
        row.rounds = options.rounds or row.rounds
    measure(wanted, done=done)
    print(page(wanted))


if __name__ == "__main__":
    main()
