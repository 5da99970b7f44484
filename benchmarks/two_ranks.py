"""One of two processes that train together: `two_ranks.py plain|scaffold_runtime|lightning.pytorch STEPS`.

The first prints seconds and collectives per step. The plain loop needs torchrun; the others launch their
second process themselves.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from typing import Any

import models
import torch
import torch.distributed as dist
from steps import OFF, fitting
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

SKIP = 20


class Count(models.Watch):
    """Counts messages along with the time."""

    def __init__(self, steps: int) -> None:
        super().__init__(torch.randn(2048, 64), 32, steps, SKIP)
        self.messages = [0, 0]

    def __iter__(self) -> Any:
        last = len(self.indices) - 1
        for number, batch in enumerate(super().__iter__()):
            if number == 1:  # the first step is done
                self.began = time.time()
            if number in (self.skip, last):
                self.messages[number == last] = sent()
            yield batch

    def per_step(self) -> dict[str, float]:
        began, ended = self.messages
        return {
            "began": self.began,
            "seconds": self.seconds_per_step(),
            "messages": (ended - began) / (len(self) - 1 - SKIP),
        }


def sent() -> int:
    """The number of collectives of this process so far."""
    return dist.distributed_c10d._get_default_group()._get_sequence_number_for_group()


def plain(data: Count) -> None:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(models.mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for inputs, labels in data.loader:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def main(kind: str, steps: int) -> None:
    torch.manual_seed(0)
    data = Count(steps)
    if kind == "plain":
        plain(data)
    else:
        settings = {**OFF, "devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
        with tempfile.TemporaryDirectory() as folder:
            fitting(kind, models.mlp, 0, enable_model_summary=False, **settings)(data, folder)
    if dist.get_rank() == 0 and steps > SKIP + 1:
        print(json.dumps(data.per_step()))
    if kind == "plain":
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    main(sys.argv[1], int(sys.argv[2]))
    if sys.argv[1] == "plain":
        # gloo's threads sometimes abort at exit, after the figures were printed
        sys.stdout.flush()
        os._exit(0)
