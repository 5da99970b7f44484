"""AdvancedProfiler: Python's own profiler, one report per action."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import re
from pathlib import Path

from scaffold_runtime.profilers.profiler import Profiler, begun_last


class AdvancedProfiler(Profiler):
    """Profile every action with cProfile: which functions were called, how often, and for how long.

    Time inside a nested action is counted there only.

    Args:
        dirpath: where the report is written; printed if neither this nor `filename` is given.
        filename: the report's name, without its ending.
        line_count_restriction: how many functions are shown: a number (int) or a fraction (float).
        dump_stats: write each action's statistics to a `.prof` file, too, for tools that show them.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: int | float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        self.line_count_restriction, self.dump_stats = line_count_restriction, dump_stats
        self.profiled_actions: dict[str, cProfile.Profile] = {}
        self._running: list[str] = []

    def start(self, action_name: str) -> None:
        if self._running:  # Python allows one running profile at a time
            self.profiled_actions[self._running[-1]].disable()
        self._running.append(action_name)
        self.profiled_actions.setdefault(action_name, cProfile.Profile()).enable()

    def stop(self, action_name: str) -> None:
        """The action ends.

        Raises:
            ValueError: if it was not started.
        """
        position = begun_last(self._running, action_name)
        self.profiled_actions[self._running[-1]].disable()
        del self._running[position]
        if self._running:
            self.profiled_actions[self._running[-1]].enable()

    def summary(self) -> str:
        reports = []
        for name, profile in self.profiled_actions.items():
            text = io.StringIO()
            statistics = pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative")
            statistics.print_stats(self.line_count_restriction)
            reports.append(f"Profile of {name}\n{text.getvalue().strip()}")
        return "\n\n".join(reports)

    def describe(self) -> None:
        super().describe()
        for name, profile in self.profiled_actions.items() if self.dump_stats else ():
            plain = re.sub(r"[^\w.-]+", "_", name)
            profile.dump_stats(self.report_file(f"-{plain}.prof") or Path(f"{plain}.prof"))

    def teardown(self, stage: str | None = None) -> None:
        while self._running:
            self.profiled_actions[self._running.pop()].disable()
        self.profiled_actions = {}
