"""Entry: one logged name in one scope, with how its values are reduced and what was logged so far."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scaffold_runtime.errors import MisconfigurationException

REDUCTIONS: dict[Any, str] = {"avg": "mean", sum: "sum", min: "min", max: "max"}
for _name in ("mean", "sum", "min", "max"):
    REDUCTIONS |= {_name: _name, getattr(torch, _name): _name}

Scalar = Tensor | float
NOTHING: tuple[Scalar | None, Scalar | None, float, bool] = (None, None, 0, False)


class Entry:
    """One logged name in one scope: how its values are reduced, and what was logged so far."""

    __slots__ = (
        "computed", "fresh", "last", "loader", "logger", "metric", "name", "on_epoch", "on_step", "options",
        "prog_bar", "reduction", "suffix", "synced", "total", "weight",
    )  # fmt: skip

    def __init__(self, name: str, suffix: str, loader: int | None, choice: tuple[Any, ...]) -> None:
        prog_bar, logger, on_step, on_epoch, reduction = choice
        self.name, self.suffix = name, suffix
        self.options: tuple[Any, ...] | None = None  # those of the first `log` call in this process
        self.loader = loader  # None if it was logged outside of batches
        self.prog_bar, self.logger = prog_bar, logger is not False
        self.on_step, self.on_epoch, self.reduction = on_step, on_epoch, reduction
        self.metric: Any = None
        self.computed: Scalar | None = None  # value of `metric`, before a hook may reset it
        self.synced = False  # whether each step's value is reduced over processes
        self.clear()

    def clear(self) -> None:
        self.last: Scalar | None
        self.total: Scalar | None
        self.weight: float
        self.last, self.total, self.weight, self.fresh = NOTHING
        self.computed = None

    def held(self) -> tuple[Scalar | None, Scalar | None, float, bool]:
        """A copy of what was logged, which later values do not change."""
        return self.last, detached_copy(self.total), self.weight, self.fresh

    def state_dict(self) -> dict[str, Any]:
        choice = [self.prog_bar, self.logger, self.on_step, self.on_epoch, self.reduction]
        return {
            "name": self.name,
            "suffix": self.suffix,
            "loader": self.loader,
            "choice": choice,
            "total": detached_copy(self.total),
            "weight": self.weight,
            "last": detached_copy(self.last),
            "fresh": self.fresh,
        }

    @classmethod
    def from_state(cls, kept: dict[str, Any]) -> Entry:
        """An entry from the state of another rank, or of a checkpoint."""
        entry = cls(kept["name"], kept["suffix"], kept["loader"], tuple(kept["choice"]))
        for part in ("last", "total", "weight", "fresh"):
            setattr(entry, part, kept[part])
        return entry

    def packed(self) -> dict[str, Any]:
        """What other ranks need for `absorb`, as plain values."""
        numbers = {
            name: None if value is None else float(value)
            for name, value in (("total", self.total), ("last", self.last))
        }
        return {**self.state_dict(), **numbers, "metric": self.metric is not None}

    def absorb(self, parts: list[dict[str, Any]]) -> None:
        """Combine the totals of all ranks, and average their last values."""
        totals = [part["total"] for part in parts if part["total"] is not None]
        lasts = [part["last"] for part in parts if part["last"] is not None]
        combine: Any = {"min": min, "max": max}.get(self.reduction, sum)
        self.total = combine(totals) if totals else None
        self.weight = sum(part["weight"] for part in parts)
        self.last = sum(lasts) / len(lasts) if lasts else None
        self.fresh = any(part["fresh"] for part in parts)

    def label(self, level: str) -> str:
        """The name that loggers see: with the level as a suffix if both levels are logged."""
        forked = self.on_step and self.on_epoch
        return f"{self.name}_{level}{self.suffix}" if forked else f"{self.name}{self.suffix}"

    def accumulate(self, value: Scalar, weight: float) -> None:
        if self.reduction == "mean":
            self.weight += weight
        if not isinstance(self.total, Tensor):
            value = _as_total(value)
        if self.total is None:
            self.total = value * weight if self.reduction == "mean" else value
        elif self.reduction == "mean" and isinstance(self.total, Tensor):
            if self.total.is_cpu and isinstance(value, Tensor) and not value.is_cpu:
                self.total = self.total.to(value.device)
            self.total.add_(value, alpha=weight)
        elif self.reduction == "mean":
            self.total = self.total + value * weight
        elif self.reduction == "sum":
            self.total = self.total + value
        else:
            pick = torch.minimum if self.reduction == "min" else torch.maximum
            self.total = pick(torch.as_tensor(self.total), torch.as_tensor(value))

    def epoch_value(self) -> Scalar | None:
        if self.metric is not None:
            fresh = self.fresh and self.computed is None
            return self.metric.compute() if fresh else self.computed
        if self.total is None:
            return None
        if self.reduction == "mean":
            return self.total / self.weight if self.weight else math.nan
        return self.total


def levels(
    name: str, stage: str, in_batch: bool, on_step: bool | None, on_epoch: bool | None
) -> tuple[bool, bool]:
    """`on_step` and `on_epoch`, with Lightning's defaults if they are None.

    Raises:
        MisconfigurationException: if nothing would be logged, or a step value while no step is running.
    """
    stepwise = stage == "train" and in_batch
    on_step = stepwise if on_step is None else on_step
    on_epoch = not stepwise if on_epoch is None else on_epoch
    if not (on_step or on_epoch):
        raise MisconfigurationException(
            f"`self.log({name!r}, on_step=False, on_epoch=False)` would log nothing: set one of them."
        )
    if on_step and stage == "train" and not in_batch:
        raise MisconfigurationException(
            f"`self.log({name!r}, on_step=True)` was called in an epoch-level hook, where no step is "
            "running. Leave `on_step` out there."
        )
    return on_step, on_epoch


def reduction_of(name: str, reduce_fx: Any) -> str:
    """The name of a reduction.

    Raises:
        MisconfigurationException: if it is none of those that work on a running total.
    """
    reduction = REDUCTIONS.get(reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx)
    if reduction is None:
        raise MisconfigurationException(
            f"`self.log({name!r}, reduce_fx={reduce_fx!r})`: choose 'mean', 'sum', 'min' or 'max', "
            "or log a torchmetrics Metric."
        )
    return reduction


def is_metric(value: Any) -> bool:
    """Whether `value` is a torchmetrics Metric, or behaves like one."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


def _as_total(value: Scalar) -> Scalar:
    """The start of a running total: at least 32 bits wide, and not the caller's own tensor."""
    if not isinstance(value, Tensor):
        return float(value)
    wide = value.dtype in (torch.float32, torch.float64)
    return value.clone() if wide else value.to(torch.float32)


def detached_copy(value: Scalar | None) -> Scalar | None:
    return value.detach().clone() if isinstance(value, Tensor) else value


def one_element(name: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise MisconfigurationException(
            f"`self.log({name!r}, ...)` got a tensor of shape {tuple(value.shape)}: "
            "log one number, for instance its mean."
        )
    return value.reshape(())


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MisconfigurationException(
            f"`self.log({name!r}, ...)` got a {type(value).__name__}: "
            "log a number, a one-element tensor or a torchmetrics Metric."
        ) from None


def check_first(name: str, value: Any, batch_size: Any) -> None:
    if isinstance(value, Tensor) and value.is_complex():
        raise MisconfigurationException(
            f"`self.log({name!r}, ...)` got a complex tensor: log its `.abs()` or its `.real`."
        )
    if batch_size is not None and not hasattr(batch_size, "__float__"):
        raise MisconfigurationException(
            f"`self.log({name!r}, batch_size={batch_size!r})`: give a number, the samples in the batch."
        )


def changed_options(before: tuple[Any, ...], now: tuple[Any, ...]) -> str:
    labels = ("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "sync_dist", "add_dataloader_idx")  # fmt: skip
    pairs = zip(labels, before, now, strict=False)
    return ", ".join(f"{label}={old}, and now {new}" for label, old, new in pairs if old != new)
