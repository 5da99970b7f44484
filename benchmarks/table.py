"""The form of every benchmark: the contestants of a row take turns, and are shown relative to the first.

A module of rows has `rows() -> list[Row]`, and its name is in `ROWS` of bench.py. A contestant is a function that
does the work once and returns one figure (seconds per step, seconds, bytes): the smaller, the better. Preparing and
cleaning up do not count.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

T = TypeVar("T")
Contestant = Callable[[], float]

# Peers: title of the column, and the package of which it shows the version.
PEERS = {
    "Lightning": "lightning",
    "barebones": "lightning",
    "Accelerate": "accelerate",
    "Ignite": "pytorch-ignite",
    "Keras": "keras",
}
UNITS = {"µs": 1e6, "ms": 1e3, "s": 1.0, "MB": 1e-6, "": 1.0}


@dataclass
class Row:
    """One line of a table. Contestants: "base", which the others are divided by, "ours", and peers."""

    key: str  # `make bench ROWS=key`
    name: str
    goal: float | None  # the largest ratio wanted; None if the row only informs
    unit: str  # in which the base is shown; figures are in seconds or bytes
    contestants: Mapping[str, Contestant]
    rounds: int = 7
    peer_rounds: int = 2  # peers are shown for comparison, and are slow
    warm_up: bool = True  # a first round that does not count; not needed for separate processes
    figures: dict[str, list[float]] = field(default_factory=dict)
    by: str = ""  # date and machine of the measurement

    def play(self, round_: int) -> None:
        """One round: a turn of each contestant that has rounds left. Round 0 is warm-up, and not kept."""
        for name, contestant in self.contestants.items():
            if round_ > (self.peer_rounds if name in PEERS else self.rounds):
                continue
            gc.collect()
            figure = contestant()
            if round_:
                self.figures.setdefault(name, []).append(figure)

    def ratios(self, name: str) -> list[float]:
        """Each figure, divided by the base of the same round."""
        pairs = zip(self.figures.get(name, []), self.figures["base"], strict=False)
        return [figure / base for figure, base in pairs]

    def base(self) -> str:
        figure = statistics.median(self.figures["base"]) * UNITS[self.unit]
        return f"{figure:.{0 if figure >= 100 else 2}f} {self.unit}"

    def ratio(self, name: str) -> str:
        ratios = self.ratios(name)
        return f"{statistics.median(ratios):.2f}" if ratios else ""

    def reached(self) -> str:
        """Median and quartiles of our ratio, and whether it missed the goal."""
        ratios = self.ratios("ours")
        if len(ratios) < 3:
            return self.ratio("ours")
        low, middle, high = statistics.quantiles(ratios, n=4)
        missed = self.goal is not None and round(middle, 2) > self.goal
        return f"{middle:.2f} ({low:.2f} to {high:.2f}){', missed' if missed else ''}"


def installed(peer: str) -> bool:
    """Whether a peer is installed; the others have no column."""
    package = {"pytorch-ignite": "ignite"}.get(PEERS[peer], PEERS[peer])
    return importlib.util.find_spec(package) is not None


def in_turn(measure: Callable[[], T]) -> Callable[[], Callable[[], T]]:
    """Readers that share one measurement per turn, for rows with different figures of the same work."""
    taken: list[T] = []

    def reader() -> Callable[[], T]:
        turns = count()

        def contestant() -> T:
            turn = next(turns)
            if turn == len(taken):
                taken.append(measure())
            return taken[turn]

        return contestant

    return reader


def measure(
    rows: Iterable[Row],
    say: Callable[[str], None] | None = None,
    done: Callable[[Row], None] = lambda row: None,
) -> None:
    """Row by row, so that an interruption loses only one; contestants alternate, so that a slow minute hits all."""
    say = say or progress
    for row in rows:
        for round_ in range(0 if row.warm_up else 1, row.rounds + 1):
            say(f"{row.key}: round {round_} of {row.rounds}")
            row.play(round_)
        say("")
        done(row)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def markdown(rows: Iterable[Row]) -> str:
    """The table: row, base, goal, reached, and a column for each peer that was measured in any row."""
    rows = list(rows)
    peers = [name for name in PEERS if any(name in row.figures for row in rows)]
    versions = [importlib.metadata.version(PEERS[name]) for name in peers]
    titles = [f"{name} {version}" for name, version in zip(peers, versions, strict=True)]
    lines = [
        f"| row | base | goal | reached | {' | '.join(titles)} |".replace("|  |", "|"),
        "|---" * (4 + len(peers)) + "|",
    ]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        cells = [row.name, row.base(), goal, row.reached(), *(row.ratio(name) for name in peers)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
