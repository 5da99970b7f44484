"""ThroughputMonitor: batches, samples and operations per second, and what share of the device's peak that is."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scaffold_runtime.checks import check_logs
from scaffold_runtime.data import batch_size_of
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

# Dense peak of tensor cores in operations per second, from the vendor's data sheets.
TF32 = "tf32"  # of float32 matrix products, if torch is allowed to use it
PEAKS: dict[str, dict[Any, float]] = {
    "h200": {torch.float32: 67e12, TF32: 494e12, torch.bfloat16: 989e12, torch.float16: 989e12},
    "h100 pcie": {torch.float32: 51e12, TF32: 378e12, torch.bfloat16: 756e12, torch.float16: 756e12},
    "h100": {torch.float32: 67e12, TF32: 494e12, torch.bfloat16: 989e12, torch.float16: 989e12},
    "a100": {torch.float32: 19.5e12, TF32: 156e12, torch.bfloat16: 312e12, torch.float16: 312e12},
    "l40s": {torch.float32: 91.6e12, TF32: 183e12, torch.bfloat16: 362e12, torch.float16: 362e12},
    "l40": {torch.float32: 90.5e12, TF32: 90.5e12, torch.bfloat16: 181e12, torch.float16: 181e12},
    "l4": {torch.float32: 30.3e12, TF32: 60e12, torch.bfloat16: 121e12, torch.float16: 121e12},
    "v100": {torch.float32: 15.7e12, torch.float16: 125e12},
    "t4": {torch.float32: 8.1e12, torch.float16: 65e12},
}  # fmt: skip


class Throughput:
    """Rates over the last `window_size` updates, from totals that only grow.

    Args:
        available_flops: the device's peak in operations per second, for the share of it that is used.
        world_size: number of devices, assumed to work at the same rate.
        window_size: number of updates that rates are computed over.
        separator: between "device" and the name.
    """

    def __init__(
        self,
        available_flops: float | None = None,
        world_size: int = 1,
        window_size: int = 100,
        separator: str = "/",
    ) -> None:
        self.available_flops, self.world_size = available_flops, world_size
        self.separator = separator
        self._window: deque[dict[str, float]] = deque(maxlen=window_size)
        self._flops: deque[float] = deque(maxlen=window_size)

    def update(
        self,
        *,
        time: float,
        batches: int,
        samples: int,
        lengths: int | None = None,
        flops: float | None = None,
    ) -> None:
        """Add the totals since the start (seconds, batches, samples, items) and the operations of this batch."""
        totals: dict[str, float] = {"time": time, "batches": batches, "samples": samples}
        if lengths is not None:
            totals["lengths"] = lengths
        self._window.append(totals)
        if flops is not None:
            self._flops.append(flops)

    def compute(self) -> dict[str, float]:
        """Totals, and rates per second after at least two updates."""
        if not self._window:
            return {}
        first, last = self._window[0], self._window[-1]
        values = dict(last)
        elapsed = last["time"] - first["time"]
        if elapsed <= 0:
            return values
        counted = {"items" if k == "lengths" else k: last[k] - first[k] for k in last}
        rates = {f"{k}_per_sec": n / elapsed for k, n in counted.items() if k != "time"}
        if len(self._flops) > 1:
            rates["flops_per_sec"] = sum(list(self._flops)[1:]) / elapsed
            if self.available_flops:
                rates["mfu"] = rates["flops_per_sec"] / self.available_flops
        for name, rate in rates.items():
            values[f"device{self.separator}{name}"] = rate
            if self.world_size > 1 and name != "mfu":
                values[name] = rate * self.world_size
        return values

    def reset(self) -> None:
        """Forget all updates."""
        self._window.clear()
        self._flops.clear()


class ThroughputMonitor(Callback):
    """Log throughput at log steps: `train/device/samples_per_sec` and the like.

    Set `flops_per_batch` on the module (`measure_flops` counts them) to have operations per second
    and, on known devices, `mfu`: model FLOPs utilization. Time of validation is left out.

    Args:
        batch_size_fn: the number of samples in a batch; the first dimension of its first tensor by default.
        length_fn: the number of items (tokens, ...) in a batch.
        window_size: number of batches that rates are computed over.
        separator: between the parts of a name.

    Raises:
        MisconfigurationException: if the trainer has no logger.
    """

    def __init__(
        self,
        batch_size_fn: Callable[[Any], int] = batch_size_of,
        length_fn: Callable[[Any], int] | None = None,
        window_size: int = 100,
        separator: str = "/",
    ) -> None:
        self.batch_size_fn, self.length_fn = batch_size_fn, length_fn
        self.window_size, self.separator = window_size, separator
        self.available_flops: float | None = None
        self._rates: dict[str, _Stage] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_logs(self, trainer)
        precision = trainer.precision_plugin
        dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        dtype = dtypes.get(precision.precision, precision.dtype)
        self.available_flops = get_available_flops(trainer.strategy.root_device, dtype)
        self._rates = {}

    def _begin(self, trainer: Trainer, stage: str) -> None:
        throughput = Throughput(
            self.available_flops, trainer.world_size, self.window_size, self.separator
        )
        self._rates[stage] = _Stage(throughput)

    def _count(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, batch: Any, step: int
    ) -> None:
        state, device = self._rates[stage], trainer.strategy.root_device
        state.batches += 1
        state.samples += self.batch_size_fn(batch)
        state.lengths += self.length_fn(batch) if self.length_fn else 0
        whole = stage != "train" or not trainer._live().mid_window
        due = whole and step > 0 and step % trainer.log_every_n_steps == 0
        if due and device.type == "cuda":
            torch.cuda.synchronize(device)  # only when the numbers are read
        state.throughput.update(
            time=time.perf_counter() - state.began,
            batches=state.batches,
            samples=state.samples,
            lengths=state.lengths if self.length_fn else None,
            flops=getattr(pl_module, "flops_per_batch", None),
        )
        if due and trainer.loggers:
            values = state.throughput.compute()
            named = {f"{stage}{self.separator}{name}": value for name, value in values.items()}
            trainer._live().send(named, max(trainer.global_step - 1, 0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, "train")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(trainer, pl_module, "train", batch, trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin(trainer, str(trainer.state.stage))

    on_test_start = on_validation_start

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
            stage = str(trainer.state.stage)
            self._count(trainer, pl_module, stage, batch, self._rates[stage].batches + 1)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fn == "fit" and not trainer.sanity_checking:
            self._rates["train"].began += time.perf_counter() - self._rates["validate"].began


class _Stage:
    """What was counted since a stage began."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self.began = time.perf_counter()
        self.batches = self.samples = self.lengths = 0


def measure_flops(
    model: nn.Module,
    forward_fn: Callable[[], Tensor],
    loss_fn: Callable[[Tensor], Tensor] | None = None,
) -> int:
    """Number of operations of `forward_fn`, and with `loss_fn` also of the backward pass: `measure_flops(model,
    lambda: model(x), torch.sum)`. For a model on the "meta" device nothing is computed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    with FlopCounterMode(display=False) as counted:
        if loss_fn is None:
            forward_fn()
        else:
            loss_fn(forward_fn()).backward()
    return int(counted.get_total_flops())


def get_available_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The peak of a known device, in operations per second; None for other devices."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    known = next((peaks for chip, peaks in PEAKS.items() if re.search(rf"\b{chip}\b", name)), {})
    fast = dtype is torch.float32 and torch.backends.cuda.matmul.fp32_precision == TF32
    return known.get(TF32 if fast else dtype, known.get(dtype))
