"""The one form of every benchmark: a row has contestants who take turns, and ratios to the first are printed.

A file of rows has `rows() -> list[Row]` and its name in `ROWS` of bench.py. A contestant is a function that does the
work once and returns one figure (seconds a step, seconds, bytes): the smaller the better. What it prepares and
clears away it leaves out of the figure.
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

# Peers: what a column is called, and the package whose version stands beside it.
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
    """One line of a table: "base" is what the others are divided by, "ours" is us, the rest are peers."""

    key: str  # `make bench ROWS=key`
    name: str
    goal: float | None  # the ratio we want to stay under; None where the row only informs
    unit: str  # how the base is shown; figures themselves are in seconds or bytes
    contestants: Mapping[str, Contestant]
    rounds: int = 7
    peer_rounds: int = 2  # peers are shown for comparison, and are slow
    warm_up: bool = True  # a round that does not count; a process of its own needs none
    figures: dict[str, list[float]] = field(default_factory=dict)
    by: str = ""  # when and on what they were measured

    def play(self, round_: int) -> None:
        """One round: everybody's turn, those who have rounds left. Round 0 warms up and is not kept."""
        for name, contestant in self.contestants.items():
            if round_ > (self.peer_rounds if name in PEERS else self.rounds):
                continue
            gc.collect()
            figure = contestant()
            if round_:
                self.figures.setdefault(name, []).append(figure)

    def ratios(self, name: str) -> list[float]:
        """Each figure over the base of the same round."""
        pairs = zip(self.figures.get(name, []), self.figures["base"], strict=False)
        return [figure / base for figure, base in pairs]

    def base(self) -> str:
        figure = statistics.median(self.figures["base"]) * UNITS[self.unit]
        return f"{figure:.{0 if figure >= 100 else 2}f} {self.unit}"

    def ratio(self, name: str) -> str:
        ratios = self.ratios(name)
        return f"{statistics.median(ratios):.2f}" if ratios else ""

    def reached(self) -> str:
        """Our ratio with its middle half, and whether the goal was missed."""
        ratios = self.ratios("ours")
        if len(ratios) < 3:
            return self.ratio("ours")
        low, middle, high = statistics.quantiles(ratios, n=4)
        missed = self.goal is not None and round(middle, 2) > self.goal
        return f"{middle:.2f} ({low:.2f} to {high:.2f}){', missed' if missed else ''}"


def installed(peer: str) -> bool:
    """Whether a peer can be measured here; without them the tables have fewer columns."""
    package = {"pytorch-ignite": "ignite"}.get(PEERS[peer], PEERS[peer])
    return importlib.util.find_spec(package) is not None


def in_turn(measure: Callable[[], T]) -> Callable[[], Callable[[], T]]:
    """For rows that read figures of the same work: it is done once a turn, by the row that comes first."""
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
    """Row after row, so that a stop loses one; in a row all play in turns, and a slow minute hits everybody."""
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
    """The table: row, base, goal, reached, and a column for each peer that took part anywhere."""
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
