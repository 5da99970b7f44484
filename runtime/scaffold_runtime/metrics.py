"""What `self.log` keeps: values stay on their device until somebody needs the number.

A logged name has one entry per scope (stage, batch or epoch level, loader). The entry holds the last
value, and for epoch values a running total and weight, all detached and on the device. Numbers reach
the host in three places only: `flush` (one stacked copy per log step), `callback_metrics` (for monitors),
and plateau schedulers. Names and suffixes are Lightning's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scaffold_runtime.data import batch_size_of
from scaffold_runtime.errors import MisconfigurationException

REDUCTIONS: dict[Any, str] = {
    "mean": "mean",
    "avg": "mean",
    "sum": "sum",
    "min": "min",
    "max": "max",
    torch.mean: "mean",
    torch.sum: "sum",
    torch.min: "min",
    torch.max: "max",
    min: "min",
    max: "max",
    sum: "sum",
}
Scalar = Tensor | float


class Entry:
    """One logged name in one scope: how it is to be reduced, and what it holds so far."""

    __slots__ = (
        "fresh", "last", "loader", "logger", "metric", "name", "on_epoch", "on_step", "options",
        "prog_bar", "reduction", "suffix", "synced", "total", "weight",
    )  # fmt: skip

    def __init__(
        self, name: str, suffix: str, loader: int | None, options: tuple[Any, ...]
    ) -> None:
        prog_bar, logger, on_step, on_epoch, reduce_fx = options[:5]
        self.name, self.suffix = name, suffix
        self.options: tuple[Any, ...] | None = options
        self.loader = loader  # None where it was logged outside of a loader's batches
        self.prog_bar, self.logger = prog_bar, logger is not False
        self.on_step, self.on_epoch, self.reduction = on_step, on_epoch, reduce_fx
        self.metric: Any = None
        self.synced = False  # whether each step's value is reduced over processes
        self.clear()

    def clear(self) -> None:
        self.last: Scalar | None = None
        self.total: Scalar | None = None
        self.weight: float = 0
        self.fresh = False

    def state_dict(self) -> dict[str, Any]:
        choice = [self.prog_bar, self.logger, self.on_step, self.on_epoch, self.reduction]
        return {
            "name": self.name,
            "suffix": self.suffix,
            "loader": self.loader,
            "choice": choice,
            "total": _kept(self.total),
            "weight": self.weight,
            "last": _kept(self.last),
            "fresh": self.fresh,
        }

    @classmethod
    def from_state(cls, kept: dict[str, Any]) -> Entry:
        """An entry as another process, or an earlier one, made it; its options are those of the first `log`."""
        entry = cls(kept["name"], kept["suffix"], kept["loader"], tuple(kept["choice"]))
        entry.options = None
        return entry

    def packed(self) -> dict[str, Any]:
        """What other processes need to know, as plain values."""
        numbers = {
            name: None if value is None else float(value)
            for name, value in (("total", self.total), ("last", self.last))
        }
        return {**self.state_dict(), **numbers, "metric": self.metric is not None}

    def absorb(self, parts: list[dict[str, Any]]) -> None:
        """Take the totals of all processes together, and the mean of their last values."""
        totals = [part["total"] for part in parts if part["total"] is not None]
        lasts = [part["last"] for part in parts if part["last"] is not None]
        combine: Any = {"min": min, "max": max}.get(self.reduction, sum)
        self.total = combine(totals) if totals else None
        self.weight = sum(part["weight"] for part in parts)
        self.last = sum(lasts) / len(lasts) if lasts else None
        self.fresh = any(part["fresh"] for part in parts)

    def label(self, level: str) -> str:
        """The name loggers see: suffixed by level where both levels are logged."""
        forked = self.on_step and self.on_epoch
        return f"{self.name}_{level}{self.suffix}" if forked else f"{self.name}{self.suffix}"

    def accumulate(self, value: Scalar, weight: float) -> None:
        if self.reduction == "mean":
            self.weight += weight
        if self.total is None:
            self.total = _as_total(value) * weight if self.reduction == "mean" else _as_total(value)
        elif self.reduction == "mean" and isinstance(self.total, Tensor):
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
            return self.metric.compute() if self.fresh else None
        if self.total is None:
            return None
        return self.total / self.weight if self.reduction == "mean" else self.total


class Metrics:
    """All values logged in a run; one per trainer, so that monitors outlive a single loop."""

    def __init__(self) -> None:
        self.scopes: dict[tuple[str, bool, int], dict[str, Entry]] = {}
        self.callback_values: dict[str, Scalar] = {}
        self.logged_values: dict[str, float] = {}
        self.bar_values: dict[str, Scalar] = {}
        self.batch: Any = None
        self.reduce: Callable[[Tensor, str], Tensor] | None = None  # over processes, where several
        self.first = True  # whether this is the first of the processes
        self.eval_steps = False  # whether an evaluation step logs with `on_step`
        self.seen: dict[str, int] = {}  # batches such steps have seen, by stage and loader
        self._active: dict[str, Entry] | None = None
        self._scope: tuple[str, bool, int] = ("", False, 0)
        self._loaders = 1
        self._where = "outside of a run"
        self._closing: str | None = None
        self._by_loader: dict[int | None, dict[str, Scalar]] = {}
        self._queue: deque[tuple[dict[str, Any], HostCopy]] = deque()
        self._bar_copy: HostCopy | None = None
        self._bar_names: list[str] = []
        self._bar_arrived: dict[str, float] = {}

    # -- scopes ---------------------------------------------------------------------------------

    def enter(self, stage: str, in_batch: bool, loader: int = 0, loaders: int = 1) -> None:
        """From now on `log` writes into this scope."""
        self._scope = (stage, in_batch, loader)
        self._loaders = loaders
        self._active = self.scopes.setdefault(self._scope, {})

    def leave(self, where: str) -> None:
        """From now on logging is an error, because we are `where`."""
        self._active = None
        self._where = where
        self.batch = None

    def _entries(self, stage: str) -> Iterator[Entry]:
        for (name, _, _), entries in self.scopes.items():
            if name == stage:
                yield from entries.values()

    # -- writing --------------------------------------------------------------------------------

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        sync_dist: bool = False,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Take one value; see `LightningModule.log`."""
        if rank_zero_only and not self.first:
            return
        active = self._active
        if active is None:
            raise MisconfigurationException(
                f"`self.log({name!r}, ...)` cannot be called {self._where}: "
                "log in steps, batch hooks or epoch hooks of training, validation and testing."
            )
        options = (prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx)
        entry = active.get(name)
        if entry is None or (entry.options is not options and entry.options != options):
            entry = self._register(active, name, value, options)
        if isinstance(value, Tensor):
            if value.requires_grad:
                value = value.detach()
            if value.dim():
                value = _one_element(name, value)
        elif type(value) is not float and type(value) is not int:
            if entry.metric is not None:
                self._log_metric(entry, value)
                return
            value = _number(name, value)
        if entry.on_step:
            entry.last = self._reduced(value, entry.reduction) if entry.synced else value
            entry.fresh = True
        if entry.on_epoch:
            entry.accumulate(value, batch_size or self._batch_size())

    def _register(
        self, active: dict[str, Entry], name: str, value: Any, options: tuple[Any, ...]
    ) -> Entry:
        stage, in_batch, loader = self._scope
        if name in active and active[name].options is None:  # from a checkpoint
            active[name].options = options
            active[name].synced = options[5] and self.reduce is not None
            return active[name]
        if name in active:
            raise MisconfigurationException(
                f"`self.log({name!r}, ...)` was called before in this stage with other options "
                f"({_describe(active[name].options or ())}; now {_describe(options)}). "
                "Use the same options, or another name."
            )
        prog_bar, logger, on_step, on_epoch, reduce_fx, _, add_index = options
        if not isinstance(name, str):
            raise MisconfigurationException(f"`self.log` needs a name, got {name!r}.")
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
        reduction = REDUCTIONS.get(reduce_fx)
        if reduction is None:
            raise MisconfigurationException(
                f"`self.log({name!r}, reduce_fx={reduce_fx!r})`: choose 'mean', 'sum', 'min' or 'max', "
                "or log a torchmetrics Metric."
            )
        suffix = f"/dataloader_idx_{loader}" if self._loaders > 1 and add_index else ""
        choice = (prog_bar, logger, on_step, on_epoch, reduction)
        entry = Entry(name, suffix, loader if in_batch else None, choice)
        entry.options = options
        entry.synced = options[5] and self.reduce is not None
        if is_metric(value):
            entry.metric = value
        self.eval_steps |= on_step and stage != "train"
        active[name] = entry
        return entry

    def _reduced(self, value: Scalar, reduction: str) -> Scalar:
        assert self.reduce is not None
        return self.reduce(torch.as_tensor(value, dtype=torch.float32), reduction)

    def _log_metric(self, entry: Entry, metric: Any) -> None:
        entry.metric = metric
        entry.fresh = True
        if entry.on_step:
            entry.last = getattr(metric, "_forward_cache", None)

    def _batch_size(self) -> int:
        return 1 if self.batch is None else batch_size_of(self.batch)

    # -- reading --------------------------------------------------------------------------------

    @contextmanager
    def closing(self, stage: str) -> Iterator[None]:
        """While the epoch-end hooks of `stage` run, its epoch values can be read already."""
        self._closing = stage
        try:
            yield
        finally:
            self._closing = None

    def callback_metrics(self) -> dict[str, Tensor]:
        """The newest value of every name, for monitors, as tensors."""
        merged = dict(self.callback_values)
        for entry in self._entries(self._closing) if self._closing else ():
            value = entry.epoch_value() if entry.on_epoch else None
            if value is not None:
                merged[entry.label("epoch")] = merged[entry.name + entry.suffix] = value
        for entry in self._entries("train"):
            if entry.last is not None:
                merged[entry.label("step")] = entry.last
                if self._closing != "train":
                    merged[entry.name + entry.suffix] = entry.last
        return {name: torch.as_tensor(value) for name, value in merged.items()}

    def progress_bar_metrics(self) -> dict[str, float]:
        """The newest values logged with `prog_bar=True` that have arrived on the host."""
        shown = dict(self.bar_values)
        for entry in self._entries(self._closing) if self._closing else ():
            value = entry.epoch_value() if entry.on_epoch and entry.prog_bar else None
            if value is not None:
                shown[entry.label("epoch")] = value
        for entry in self._entries("train"):
            if entry.prog_bar and entry.last is not None:
                shown[entry.label("step")] = entry.last
        if self._bar_copy is not None and self._bar_copy.arrived():
            self._bar_arrived = dict(zip(self._bar_names, self._bar_copy.read(), strict=True))
            self._bar_copy = None
        if self._bar_copy is None and shown:
            self._bar_names, self._bar_copy = list(shown), HostCopy(shown.values())
            if self._bar_copy.arrived():
                self._bar_arrived = dict(zip(self._bar_names, self._bar_copy.read(), strict=True))
                self._bar_copy = None
        return self._bar_arrived

    def take_step(self, stage: str = "train", loader: int = 0) -> dict[str, Scalar]:
        """The step values logged since the last call, under the names loggers see."""
        taken: dict[str, Scalar] = {}
        for entry in self._entries(stage):
            if entry.loader not in (None, loader):
                continue
            if entry.fresh and entry.on_step and entry.metric is None:
                entry.fresh = False
                if entry.logger and entry.last is not None:
                    taken[entry.label("step")] = entry.last
            elif entry.metric is not None and entry.on_step and entry.last is not None:
                taken[entry.label("step")] = entry.last
        return taken

    def merge(self, stage: str, gather: Callable[[Any], list[Any]]) -> None:
        """Make the values of `stage` those of all processes, in one message; names may be unknown here.

        Raises:
            MisconfigurationException: if a torchmetrics Metric was logged by some processes only.
        """
        known = [(scope, e) for scope, entries in self.scopes.items() for e in entries.values()]
        everything = gather({(s, e.name): e.packed() for s, e in known if s[0] == stage})
        for scope, name in dict.fromkeys(key for packed in everything for key in packed):
            parts = [packed[scope, name] for packed in everything if (scope, name) in packed]
            entries = self.scopes.setdefault(scope, {})
            # Taken out and put in again: in the same order everywhere, since metrics compute together.
            entry = entries.pop(name) if name in entries else Entry.from_state(parts[0])
            entries[name] = entry
            if any(part["metric"] for part in parts) and len(parts) < len(everything):
                raise MisconfigurationException(
                    f"the metric {name!r} was logged by {len(parts)} of {len(everything)} processes only, so it "
                    "cannot be computed over all. Log it in every process, also where there is no batch."
                )
            entry.absorb(parts)

    def take_epoch(self, stage: str) -> dict[str, Scalar]:
        """Close an epoch of `stage`: reduce every epoch value, publish it, start afresh."""
        entries = list(self._entries(stage))
        due = [entry for entry in entries if entry.on_epoch]
        values = [entry.epoch_value() for entry in due]
        for entry in entries:
            if entry.last is not None and stage == "train":
                self.callback_values[entry.name + entry.suffix] = entry.last
                self.callback_values[entry.label("step")] = entry.last
                if entry.prog_bar:
                    self.bar_values[entry.label("step")] = entry.last
        taken: dict[str, Scalar] = {}
        self._by_loader.clear()
        for entry, value in zip(due, values, strict=True):
            if value is None:
                continue
            name = entry.label("epoch")
            self.callback_values[name] = self.callback_values[entry.name + entry.suffix] = value
            if entry.prog_bar:
                self.bar_values[name] = value
            if entry.logger:
                taken[name] = self._by_loader.setdefault(entry.loader, {})[name] = value
        for entry in entries:
            if entry.metric is not None and entry.fresh:
                entry.metric.reset()
            entry.clear()
        return taken

    def of_loader(self, loader: int) -> dict[str, float]:
        """What the last `take_epoch` took from one loader, and from outside of loaders, as numbers."""
        taken = {**self._by_loader.get(loader, {}), **self._by_loader.get(None, {})}
        return {name: float(value) for name, value in taken.items()}

    def reset(self) -> None:
        """A new run begins: no name is known, nothing was logged."""
        self.scopes.clear()
        self.seen, self.eval_steps = {}, False
        self.forget()

    def forget(self) -> None:
        """Forget every published value; names stay known."""
        self.callback_values, self.bar_values, self.logged_values = {}, {}, {}
        self._bar_arrived, self._bar_copy = {}, None

    def names(self, stage: str) -> set[str]:
        """Every name a monitor may use after an epoch of `stage`."""
        plain = {entry.name + entry.suffix for entry in self._entries(stage)}
        forked = {
            entry.label(level)
            for entry in self._entries(stage)
            for level, on in (("step", entry.on_step), ("epoch", entry.on_epoch))
            if on
        }
        return plain | forked

    # -- to the loggers -------------------------------------------------------------------------

    def flush(self, values: Mapping[str, Scalar], header: dict[str, Any]) -> None:
        """Start bringing `values` to the host, to be delivered with `header` in this order."""
        self._queue.append(({**header, "names": list(values)}, HostCopy(values.values())))

    def deliver(self, send: Callable[[dict[str, Any], dict[str, float]], None], wait: bool) -> None:
        """Send every record that has arrived; with `wait`, all of them."""
        while self._queue and (wait or self._queue[0][1].arrived()):
            header, copy = self._queue.popleft()
            values = dict(zip(header.pop("names"), copy.read(), strict=True))
            send(header, values)
            self.logged_values.update(values)

    # -- resume ---------------------------------------------------------------------------------

    def state_dict(self, names: Mapping[int, str]) -> dict[str, Any]:
        """What this epoch has accumulated and the newest values, as tensors and plain values.

        `names` says what the Metrics in the model are called, by their id.
        """
        partial = [
            {**entry.state_dict(), "scope": list(scope), "metric": names.get(id(entry.metric))}
            for scope, entries in self.scopes.items()
            for entry in entries.values()
            if entry.total is not None or entry.last is not None or entry.fresh
        ]
        return {
            "partial": partial,
            "callback": {name: _kept(value) for name, value in self.callback_values.items()},
            "bar": {name: _kept(value) for name, value in self.bar_values.items()},
            "logged": dict(self.logged_values),
            "seen": dict(self.seen),
        }

    def load_state_dict(self, state: dict[str, Any], metrics: Mapping[str, Any]) -> None:
        self.scopes.clear()
        for kept in state["partial"]:
            entry = Entry.from_state(kept)
            entry.metric = metrics.get(kept["metric"])
            entry.total, entry.weight = kept["total"], kept["weight"]
            entry.last, entry.fresh = kept["last"], kept["fresh"]
            stage, in_batch, loader = kept["scope"]
            self.scopes.setdefault((stage, in_batch, loader), {})[entry.name] = entry
        self.callback_values = dict(state["callback"])
        self.bar_values = dict(state["bar"])
        self.logged_values = dict(state["logged"])
        self.seen = dict(state.get("seen", {}))


class HostCopy:
    """Numbers on their way from a device to the host, without waiting for the device."""

    __slots__ = ("event", "floats", "host")

    def __init__(self, values: Iterable[Scalar]) -> None:
        self.floats: list[Any] = [
            float(value) if isinstance(value, Tensor) and value.device.type == "cpu" else value
            for value in values
        ]
        self.host: list[tuple[list[int], Tensor]] = []
        self.event: torch.cuda.Event | None = None
        remote: dict[torch.device, list[int]] = {}
        for index, value in enumerate(self.floats):
            if isinstance(value, Tensor):
                remote.setdefault(value.device, []).append(index)
        for device, indices in remote.items():
            stacked = torch.stack([torch.as_tensor(self.floats[i]).float() for i in indices])
            if device.type == "cuda":
                pinned = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
                self.host.append((indices, pinned.copy_(stacked, non_blocking=True)))
                self.event = torch.cuda.Event()
                self.event.record(torch.cuda.current_stream(device))
            else:
                self.host.append((indices, stacked.cpu()))

    def arrived(self) -> bool:
        return self.event is None or self.event.query()

    def read(self) -> list[float]:
        """The numbers, in the order given; waits if they are still on their way."""
        if self.event is not None:
            self.event.synchronize()
        for indices, host in self.host:
            for index, number in zip(indices, host.tolist(), strict=True):
                self.floats[index] = number
        return [float(value) for value in self.floats]


def is_metric(value: Any) -> bool:
    """Whether `value` is a torchmetrics Metric, or behaves like one."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


def _as_total(value: Scalar) -> Scalar:
    """The start of a running total: at least 32 bits wide, and not the caller's own tensor."""
    if not isinstance(value, Tensor):
        return float(value)
    wide = value.dtype in (torch.float32, torch.float64)
    return value.clone() if wide else value.to(torch.float32)


def _kept(value: Scalar | None) -> Scalar | None:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _one_element(name: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise MisconfigurationException(
            f"`self.log({name!r}, ...)` got a tensor of shape {tuple(value.shape)}: "
            "log one number, for instance its mean."
        )
    return value.reshape(())


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MisconfigurationException(
            f"`self.log({name!r}, ...)` got a {type(value).__name__}: "
            "log a number, a one-element tensor or a torchmetrics Metric."
        ) from None


def _describe(options: tuple[Any, ...]) -> str:
    labels = ("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "sync_dist", "add_dataloader_idx")  # fmt: skip
    return ", ".join(f"{label}={value}" for label, value in zip(labels, options, strict=False))
