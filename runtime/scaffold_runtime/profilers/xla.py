"""XLAProfiler: actions show up by name in the traces of torch_xla's profiler."""

from __future__ import annotations

from typing import Any

from scaffold_runtime.accelerators import xla
from scaffold_runtime.profilers.profiler import Profiler


class XLAProfiler(Profiler):
    """Serve traces to TensorBoard's profile plugin, which captures them while training runs.

    Args:
        port: where traces are served.
    """

    def __init__(self, port: int = 9012) -> None:
        super().__init__()
        self.port = port
        self._server: Any = None
        self._open: dict[str, Any] = {}

    def setup(self, stage: str, local_rank: int | None = None, log_dir: Any = None) -> None:
        super().setup(stage, local_rank, log_dir)
        if local_rank in (0, None) and self._server is None:
            self._server = xla(".debug.profiler").start_server(self.port)

    def start(self, action_name: str) -> None:
        # Not the public `Trace`, which must not be open when a step is sent to the device.
        self._open[action_name] = xla()._XLAC.profiler.TraceMe(action_name)
        self._open[action_name].__enter__()

    def stop(self, action_name: str) -> None:
        self._open.pop(action_name).__exit__(None, None, None)
