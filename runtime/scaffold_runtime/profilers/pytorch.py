"""PyTorchProfiler: torch's profiler, with a trace that Chrome and Perfetto show."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from scaffold_runtime.profilers.profiler import Profiler

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

BATCH_ENDS = {"validation_step", "test_step", "predict_step"}  # in training, a new batch is drawn


class PyTorchProfiler(Profiler):
    """Profile operators on CPU and GPU over a few batches, and write a Chrome trace.

    The trace goes to `dirpath`, or into the run folder: open it in chrome://tracing or ui.perfetto.dev. By
    default one batch is skipped, one warms up and three are recorded.

    Args:
        dirpath: where report and trace are written.
        filename: the report's name, without its ending.
        group_by_input_shapes: group operators by the shapes of their inputs, too.
        emit_nvtx: emit NVTX ranges for NVIDIA's profiler instead (run under `nsys profile`).
        export_to_chrome: write the trace.
        row_limit: rows of the report; -1 for all.
        sort_by_key: the column the report is sorted by; total device or CPU time if None.
        record_module_names: mark which module operators ran in.
        table_kwargs: passed to the table of torch's profiler.
        profiler_kwargs: passed to `torch.profiler.profile`: `schedule`, `activities`, `profile_memory`, ...
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        emit_nvtx: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        record_module_names: bool = True,
        table_kwargs: dict[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename)
        self._group_by_input_shapes, self._emit_nvtx = group_by_input_shapes, emit_nvtx
        self._export_to_chrome, self._row_limit = export_to_chrome, row_limit
        self._sort_by_key = sort_by_key
        self._record_module_names = record_module_names
        self._table_kwargs, self._profiler_kwargs = table_kwargs or {}, profiler_kwargs
        self._recording = ExitStack()
        self._profile: Any = None
        self._report, self._on_gpu = "", False
        self._marks: list[tuple[str, record_function]] = []

    # -- a run ------------------------------------------------------------------------------------

    def attach(self, run: Run) -> None:
        self.dirpath = self.dirpath or Path(run.trainer.log_dir)
        self._on_gpu = run.trainer.device.type == "cuda"
        super().attach(run)
        if self._record_module_names:
            self._mark_parts(run.module)
        if self._emit_nvtx:
            self._recording.enter_context(torch.autograd.profiler.emit_nvtx())
        else:
            self._profile = self._recording.enter_context(profile(**self._arguments()))

    def _mark_parts(self, module: nn.Module) -> None:
        """Measure the forward of every submodule as an action under its name."""
        for name, part in module.named_modules():
            if name:
                label = f"{type(part).__name__}: {name}"
                enter, leave = partial(_call, self.start, label), partial(_call, self.stop, label)
                marked = part.register_forward_pre_hook(enter)
                self._recording.enter_context(marked)
                marked = part.register_forward_hook(leave, always_call=True)
                self._recording.enter_context(marked)

    def _arguments(self) -> dict[str, Any]:
        activities = [ProfilerActivity.CPU]
        if self._on_gpu:
            activities.append(ProfilerActivity.CUDA)
        return {
            "activities": activities,
            "schedule": schedule(wait=1, warmup=1, active=3, repeat=1),
            "on_trace_ready": self._take,
            "record_shapes": self._group_by_input_shapes,
            "acc_events": True,
            **self._profiler_kwargs,
        }

    def _take(self, recorded: Any) -> None:
        """Called when a recording is complete: keep its table, write its trace."""
        averages = recorded.key_averages(group_by_input_shape=self._group_by_input_shapes)
        device = "cuda" if self._on_gpu else "cpu"
        key = self._sort_by_key or f"self_{device}_time_total"
        arguments = {"sort_by": key, "row_limit": self._row_limit, **self._table_kwargs}
        self._report = averages.table(**arguments)
        file = self.report_file(".pt.trace.json")
        if self._export_to_chrome and file is not None:
            recorded.export_chrome_trace(str(file))

    def summary(self) -> str:
        return self._report

    def describe(self) -> None:
        while self._marks:  # left open by an exception
            self._marks.pop()[1].__exit__(None, None, None)
        self._recording.close()
        self._profile = None
        if self.filename is None and self._report:
            sys.stdout.write(f"{self._report}\n")
        else:
            super().describe()

    # -- actions ----------------------------------------------------------------------------------

    def start(self, action_name: str) -> None:
        mark = record_function(action_name)
        mark.__enter__()
        self._marks.append((action_name, mark))

    def stop(self, action_name: str) -> None:
        if self._marks and self._marks[-1][0] == action_name:
            self._marks.pop()[1].__exit__(None, None, None)
        ends = {"data"} if self._stage == "fit" else BATCH_ENDS
        if self._profile is not None and action_name in ends:
            self._profile.step()


def _call(method: Callable[[str], None], name: str, *_: Any) -> None:
    """Call `method(name)` from a module hook, whose arguments are ignored."""
    method(name)
