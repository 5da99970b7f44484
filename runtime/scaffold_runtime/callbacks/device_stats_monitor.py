"""DeviceStatsMonitor: log memory and utilization of the device during a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scaffold_runtime.checks import check_logs
from scaffold_runtime.extras import require
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class DeviceStatsMonitor(Callback):
    """Log statistics of the device (memory, utilization) at the start and end of batches, at log steps.

    Names are `DeviceStatsMonitor.on_train_batch_start/...`; memory is in bytes, utilization in percent.

    Args:
        cpu_stats: log CPU and memory utilization too; None does so only if the device is the CPU.
        filter_keys: log only these; None logs all there are (on CUDA, more than a hundred).

    Raises:
        MisconfigurationException: if the trainer has no logger.
        MissingExtra: if `cpu_stats` are logged and `psutil` is not installed.
    """

    def __init__(
        self, cpu_stats: bool | None = None, filter_keys: Iterable[str] | None = None
    ) -> None:
        self._cpu_stats = cpu_stats
        self._wanted = None if filter_keys is None else set(filter_keys)
        self._psutil: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_logs(self, trainer)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if self._cpu_stats or (self._cpu_stats is None and on_cpu):
            self._psutil = require("psutil", "scaffold-runtime[stats]", "DeviceStatsMonitor")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not trainer._live().mid_window:
            self._log(trainer, "on_train_batch_start", trainer.global_step + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer._live().mid_window:
            self._log(trainer, "on_train_batch_end", trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, f"on_{trainer.stage}_batch_end", batch_idx + 1)

    on_test_batch_end = on_validation_batch_end

    def _log(self, trainer: Trainer, hook: str, count: int) -> None:
        if not trainer.loggers or count == 0 or count % trainer.log_every_n_steps:
            return
        stats = dict(trainer.accelerator.get_device_stats(trainer.strategy.root_device))
        if self._psutil is not None:
            stats |= cpu_stats(self._psutil)
        wanted = stats if self._wanted is None else self._wanted
        numbers = {
            k: float(v) for k, v in stats.items() if k in wanted and isinstance(v, (int, float))
        }
        named = {f"{type(self).__name__}.{hook}/{name}": v for name, v in numbers.items()}
        trainer._live().send(named, max(trainer.global_step - 1, 0))


def cpu_stats(psutil: Any) -> dict[str, float]:
    """Utilization of CPU and memory, in percent."""
    return {
        "cpu_vm_percent": psutil.virtual_memory().percent,
        "cpu_percent": psutil.cpu_percent(),
        "cpu_swap_percent": psutil.swap_memory().percent,
    }
