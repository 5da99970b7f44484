"""Profiles of whole processes, as tables: what they import, and the time per package."""

from __future__ import annotations

import json
import pstats
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import distributed
import processes


def of_functions(stats: pstats.Stats, steps: int) -> None:
    rows = [
        (own, calls, f"{Path(file).name}: {name}")
        for (file, _, name), (_, calls, own, _, _) in stats.stats.items()  # type: ignore[attr-defined]
        if "scaffold_runtime" in file
    ]
    print("| function | calls a step | own µs a step, profiled |\n|---|---|---|")
    for own, calls, name in sorted(rows, reverse=True)[:12]:
        print(f"| {name} | {calls / steps:.2f} | {own / steps * 1e6:.2f} |")


def of_a_process(key: str) -> None:
    """What a command imports, and its time per package; profiling makes calls look slower than they are."""
    row = next(row for row in processes.rows() if row.key == key)
    with processes.traced(["-X", "importtime"]) as said:
        row.contestants["ours"]()
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)", said[-1])
    print(f"Importing takes {sum(int(own) for own, _, _ in lines) / 1000:.0f} ms, by package:")
    packages: dict[str, float] = defaultdict(float)
    for own, _, name in lines:
        packages[name.partition(".")[0]] += int(own) / 1000
    listed(packages, "imported", "own ms")
    if key in ("startup", "new", "add"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "profile"
            with processes.traced(["-m", "cProfile", "-o", str(file)]):
                row.contestants["ours"]()
            print("\nThe whole command, importing included, by whose code ran:")
            listed(by_package(file), "package", "own ms, profiled")


def of_two_ranks() -> None:
    """The time per package of the first of two processes; waiting for the other (gloo) counts as torch."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("plain", "scaffold_runtime"):
            file = Path(folder) / kind
            words = distributed.TORCHRUN if kind == "plain" else ("-m", "cProfile", "-o", file)
            launched = [*words, distributed.SCRIPT, kind, distributed.STEPS]
            printed = processes.execute(processes.python(*launched), Path(folder))
            figures = json.loads(printed.splitlines()[-1])
            print(
                f"- {kind}: {figures['seconds'] * 1e6:.0f} µs and {figures['messages']:.2f} messages a step"
            )
        print("\nOurs, start and imports included:")
        listed(by_package(file), "package", "own ms, profiled")
        print()
        of_functions(pstats.Stats(str(file)), distributed.STEPS)


def by_package(file: Path) -> dict[str, float]:
    """Own milliseconds in a profile, by package."""
    taken: dict[str, float] = defaultdict(float)
    for (path, _, name), (_, _, own, _, _) in pstats.Stats(str(file)).stats.items():  # type: ignore[attr-defined]
        taken[package(path, name)] += own * 1000
    return taken


def package(path: str, name: str) -> str:
    """The package of a file; built-in functions are listed by name."""
    inside = re.search(r"(?:site-packages|runtime)/(\w+)|/(scaffold)/", path)
    if path == "~":
        return re.sub(r"[<>']|built-in |method ", "", name).partition(" of ")[0] + "()"
    return (inside[1] or inside[2]) if inside else "Python's own"


def listed(figures: Mapping[str, float], head: str, unit: str) -> None:
    print(f"\n| {head} | {unit} |\n|---|---|")
    for name, figure in sorted(figures.items(), key=lambda each: -each[1])[:12]:
        print(f"| {name} | {figure:.1f} |")
