"""Tokens per second, and model FLOPs utilization (MFU)."""

import time
from typing import Any

import torch
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import ThroughputMonitor


class Speed(ThroughputMonitor):
    def __init__(self, window_size: int = 50) -> None:
        super().__init__(batch_size, token_count, window_size)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.loggers:
            return
        super().setup(trainer, pl_module, stage)
        if self.available_flops is None:  # the runtime does not know this device
            self.available_flops = measured_peak(trainer.device)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: Any,
        batch: list[torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Forward and backward take about six FLOPs per weight and token."""
        weights = sum(weight.numel() for weight in pl_module.parameters())
        pl_module.flops_per_batch = 6 * weights * token_count(batch)


def batch_size(batch: list[torch.Tensor]) -> int:
    return len(batch[0])


def token_count(batch: list[torch.Tensor]) -> int:
    return batch[0].numel()


def measured_peak(device: torch.device, size: int = 1024) -> float:
    """Peak FLOPs per second, measured with a large matrix product."""
    matrix = torch.rand(size, size, device=device)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        (matrix @ matrix).sum().item()  # waits for the result
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
