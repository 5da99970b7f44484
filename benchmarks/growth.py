"""Rows of growth: is a step slower after 100,000 steps, or a logged name slower among 200?"""

from __future__ import annotations

import models
import torch
from models import Watch
from steps import OFF, fitting, per_step
from table import Contestant, Row

FEW, MANY = 1_000, 100_000


def last(steps: int) -> Watch:
    """Small batches; the last thousand are timed."""
    torch.manual_seed(0)
    return Watch(torch.randn(2048, 64), 2, steps, skip=steps - FEW - 1)


def of_a_name(names: int) -> Contestant:
    """Seconds per step for each of `names` logged names."""
    silent = per_step(fitting("scaffold_runtime", models.mlp, 0, **OFF), models.vectors, 320)
    logging = per_step(fitting("scaffold_runtime", models.mlp, names, **OFF), models.vectors, 320)
    return lambda: (logging() - silent()) / names


def rows() -> list[Row]:
    run = fitting("scaffold_runtime", models.mlp, 1)
    steps = {"base": per_step(run, last, 2 * FEW), "ours": per_step(run, last, MANY)}
    names = {"base": of_a_name(20), "ours": of_a_name(200)}
    return [
        Row(
            "steps",
            "a step after 100 000, defaults, against the second thousand",
            1.05,
            "µs",
            steps,
            rounds=2,
            warm_up=False,
        ),
        Row(
            "names", "`self.log` of one name among 200, against one among 20", 1.10, "µs", names, 5
        ),
    ]
