"""The base class of profilers, and how the phases of a run are measured.

A profiler measures named actions. Before a run starts it replaces the hook calls (`wrap`) and the phases of
the engine (`attach`) by measured ones; without a profiler nothing is replaced, so there is no overhead.
"""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

Call = Callable[..., Any]
EPOCH = "epoch"
LOGGING = ("log", "take_epoch")  # methods of Metrics, which outlive a run


class Profiler(abc.ABC):
    """Measures named actions. Subclass it with `start`, `stop` and `summary` to write your own.

    Args:
        dirpath: where the report is written; printed if neither this nor `filename` is given.
        filename: the report's name, without its ending; "report" if only `dirpath` is given. Without `dirpath`
            it goes into the run folder.
    """

    def __init__(
        self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None
    ) -> None:
        self.dirpath = Path(dirpath) if dirpath is not None else None
        self.filename = filename
        self._stage: str | None = None

    @abc.abstractmethod
    def start(self, action_name: str) -> None:
        """The action begins."""

    @abc.abstractmethod
    def stop(self, action_name: str) -> None:
        """The action ends."""

    def summary(self) -> str:
        """The report; empty if nothing was measured."""
        return ""

    def setup(
        self,
        stage: str,
        local_rank: int | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """A run begins: `stage` is "fit", "validate", "test" or "predict", `log_dir` the run's folder."""
        self._stage = stage
        if self.filename is not None and self.dirpath is None and log_dir is not None:
            self.dirpath = Path(log_dir)

    def teardown(self, stage: str | None = None) -> None:
        """The run has ended, after `describe`."""

    @contextmanager
    def profile(self, action_name: str) -> Iterator[None]:
        """Measure what happens in the block under `action_name`."""
        self.start(action_name)
        try:
            yield
        finally:
            self.stop(action_name)

    def wrap(self, label: str, call: Call) -> Call:
        """The same call, measured under `label`."""

        @wraps(call, updated=())
        def measured(*args: Any, **kwargs: Any) -> Any:
            self.start(label)
            try:
                return call(*args, **kwargs)
            finally:
                self.stop(label)

        return measured

    def describe(self) -> None:
        """Write the report to its file, or print it."""
        text = self.summary()
        if not text:
            return
        file = self.report_file(".txt")
        if file is None:
            sys.stdout.write(f"{text}\n")
        else:
            file.write_text(f"{text}\n", encoding="utf-8")

    def report_file(self, ending: str) -> Path | None:
        """`dirpath/stage-filename`, in a folder that exists; None if there is nowhere to write."""
        if self.dirpath is None:
            return None
        self.dirpath.mkdir(parents=True, exist_ok=True)
        stage = f"{self._stage}-" if self._stage else ""
        return self.dirpath / f"{stage}{self.filename or 'report'}{ending}"

    # -- the engine's phases ----------------------------------------------------------------------

    def attach(self, run: Run) -> None:
        """Replace the phases of `run` by measured ones."""
        log_dir = run.trainer.log_dir if self.filename and self.dirpath is None else None
        self.setup(stage=run.fn, local_rank=run.trainer.local_rank, log_dir=log_dir)
        prepared = run.prepared
        run.prepared = replace(
            prepared,
            call=lambda name: self.wrap(name, prepared.call(name)),
            backward=self.wrap("backward", prepared.backward),
            unscale=self.wrap("optimizer.unscale", prepared.unscale),
            step=self.wrap("optimizer.step", prepared.step),
            clip=self.wrap("optimizer.clip", prepared.clip),
        )
        self._measure(run, "transfer", "to_device")
        self._measure(run, "validate", "validate")
        for name in ("log_step", "send", "deliver"):
            self._measure(run, f"logging.{name}", name)
        for name in LOGGING:
            self._measure(run.metrics, f"logging.{name}", name)
        if run.fn == "fit":
            self._attach_training(run)

    def _attach_training(self, run: Run) -> None:
        begin_epoch, end_epoch, start = run.begin_epoch, run.end_epoch, run.start_training

        def start_training() -> bool:
            started = start()
            if started:
                self._measure(run, "optimizer.zero_grad", "zero_grad")
            return started

        def begin() -> Iterator[Any]:
            self.start(EPOCH)
            batches = begin_epoch()
            return iter(self.wrap("data", lambda: next(batches, None)), None)

        def end(outputs: Any) -> None:
            end_epoch(outputs)
            self.stop(EPOCH)

        vars(run).update(start_training=start_training, begin_epoch=begin, end_epoch=end)
        for name in ("after_step", "after_logging", "after_epoch"):
            self._measure(run.schedules, "optimizer.schedule", name)
        self._measure(run, "checkpoint", "write")

    def _measure(self, owner: Any, label: str, name: str) -> None:
        vars(owner)[name] = self.wrap(label, getattr(owner, name))

    def detach(self, run: Run) -> None:
        """The run ended: report, and restore what outlives the run."""
        for name in LOGGING:
            vars(run.metrics).pop(name, None)
        if self._stage is not None:
            self.describe()
            self.teardown(self._stage)
            self._stage = None


def begun_last(names: Sequence[str], action_name: str) -> int:
    """The index, among running actions, of the last one that was started under this name.

    Raises:
        ValueError: if there is none.
    """
    if action_name not in names:
        raise ValueError(f"the action {action_name!r} was stopped, but it had not begun.")
    return len(names) - 1 - names[::-1].index(action_name)


class PassThroughProfiler(Profiler):
    """Measure nothing, and leave the run as it is."""

    def start(self, action_name: str) -> None:
        return None

    def stop(self, action_name: str) -> None:
        return None

    def wrap(self, label: str, call: Call) -> Call:
        return call

    def attach(self, run: Run) -> None:
        return None

    def detach(self, run: Run) -> None:
        return None
