"""SimpleProfiler: how long each action took, and how the time of a training step was spent."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from scaffold_runtime.columns import aligned
from scaffold_runtime.hooks import Callback, hook_names
from scaffold_runtime.profilers.profiler import EPOCH, Profiler, begun_last

# The parts of a step, in the order in which they are shown; "engine" is the rest of the loop's time.
PARTS = {
    "data": "data wait",
    "transfer": "transfer",
    "training_step": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "hooks": "hooks",
    "logging": "logging",
    "validate": "validation",
    "checkpoint": "checkpoint",
    EPOCH: "engine",
}
HOOKS = frozenset(hook_names(Callback))
NUMERIC = (False, *[True] * 5)  # which columns are aligned to the right


@dataclass
class _Action:
    """What was measured under one name, in seconds; `own` excludes nested actions."""

    calls: int = 0
    total: float = 0.0
    own: float = 0.0


@dataclass
class _Running:
    """An action that is running."""

    name: str
    part: str | None
    began: float
    inside: float = 0.0


class SimpleProfiler(Profiler):
    """Time every hook and every phase of the engine, and show where a training step spends its time.

    Args:
        dirpath: where the report is written; printed if neither this nor `filename` is given.
        filename: the report's name, without its ending.
        extended: report calls, totals and shares, and not only means and totals.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        extended: bool = True,
    ) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self._forget()

    def _forget(self) -> None:
        self.actions: dict[str, _Action] = {}
        self.parts: dict[str, float] = {}
        self._running: list[_Running] = []
        self._began = time.perf_counter()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: Any = None) -> None:
        super().setup(stage, local_rank, log_dir)
        self._forget()

    def start(self, action_name: str) -> None:
        part = self._part(action_name)
        self._running.append(_Running(action_name, part, time.perf_counter()))

    def stop(self, action_name: str) -> None:
        """The action ends.

        Raises:
            ValueError: if it was not started.
        """
        now = time.perf_counter()
        position = begun_last([running.name for running in self._running], action_name)
        action = self._running.pop(position)
        elapsed = now - action.began
        own = elapsed - action.inside
        if position:
            self._running[position - 1].inside += elapsed
        kept = self.actions.setdefault(action_name, _Action())
        kept.calls, kept.total, kept.own = kept.calls + 1, kept.total + elapsed, kept.own + own
        if action.part is not None:
            self.parts[action.part] = self.parts.get(action.part, 0.0) + own

    def _part(self, name: str) -> str | None:
        """The part of a step that an action belongs to: its own, or that of the enclosing action."""
        around = self._running[-1].part if self._running else None
        if around == "validation" or (around is None and name != EPOCH):
            return around
        first, _, last = name.partition(".")
        return PARTS.get("hooks" if last in HOOKS else first, around)

    # -- the report -------------------------------------------------------------------------------

    def summary(self) -> str:
        if not self.actions:
            return ""
        title = f"{(self._stage or '').upper()} profile".strip()
        return "\n\n".join(filter(None, [self._table(title), self._step()]))

    def _table(self, title: str) -> str:
        everything = max(time.perf_counter() - self._began, 1e-9)
        rows = [("Action", "Mean (s)", "Calls", "Total (s)", "Own (s)", "% of run")]
        for name, action in sorted(self.actions.items(), key=lambda item: -item[1].total):
            mean, share = action.total / action.calls, 100 * action.total / everything
            times = (f"{mean:.5g}", f"{action.calls}", f"{action.total:.5g}", f"{action.own:.5g}")
            rows.append((name, *times, f"{share:.1f}"))
        if not self.extended:
            rows = [(row[0], row[1], row[3], "", "", "") for row in rows]
        return "\n".join([title, *aligned(rows, NUMERIC)])

    def _step(self) -> str:
        """A table of how the training loop spent its time."""
        steps = self.actions.get("training_step", _Action()).calls
        whole = sum(self.parts.values())
        if not steps or not whole:
            return ""
        rows = [("Part", "Total (s)", "Per step (s)", "%")]
        for part in PARTS.values():
            took = self.parts.get(part, 0.0)
            rows.append((part, f"{took:.5g}", f"{took / steps:.5g}", f"{100 * took / whole:.1f}"))
        note = "engine: the loop itself, and this profiler's own work"
        title = f"Where {steps} training steps went"
        return "\n".join([title, *aligned(rows, NUMERIC), note])
