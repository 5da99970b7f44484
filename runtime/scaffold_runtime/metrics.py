"""What `self.log` keeps: values stay on their device until their number is needed.

A logged name has one entry per scope (stage, batch or epoch level, loader). The entry holds the last
value, and for epoch values a running total and weight, all detached and on the device. Numbers reach
the host in three places only: `flush` (one stacked copy per log step), `callback_metrics` (for monitors),
and plateau schedulers. Names and suffixes are Lightning's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from scaffold_runtime.data import batch_size_of, size_in, sizes_in
from scaffold_runtime.entry import (
    NOTHING,
    Entry,
    Scalar,
    changed_options,
    check_first,
    detached_copy,
    is_metric,
    levels,
    number,
    one_element,
    reduction_of,
)
from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.to_host import HostCopy, Newest


class Metrics:
    """All values logged in a run; one per trainer, so that monitors outlive a single loop."""

    def __init__(self) -> None:
        self.scopes: dict[tuple[str, bool, int], dict[str, Entry]] = {}
        self.callback_values: dict[str, Scalar] = {}
        self.logged_values: dict[str, Scalar] = {}
        self.bar_values: dict[str, Scalar] = {}
        self.batch: Any = None
        self.reduce: Callable[..., Tensor] | None = None  # over ranks, if there are several
        self.alone: set[str] = set()  # stages whose steps must not use collectives
        self.first = True  # whether this is rank 0
        self.eval_steps = False  # whether evaluation steps log with `on_step`
        self.seen: dict[str, int] = {}  # batches of such evaluations so far, by stage and loader
        self.validated: set[str] = set()  # names that validation logged before the run was resumed
        self._active: dict[str, Entry] | None = None
        self._scope: tuple[str, bool, int] = ("", False, 0)
        self._loaders = 1
        self._where = "outside of a run"
        self._closing: str | None = None
        self._warned = False  # whether it was warned of unclear batch sizes
        self._by_loader: dict[int | None, dict[str, Scalar]] = {}
        self._queue: deque[tuple[dict[str, Any], HostCopy]] = deque()
        self._bar = Newest()

    # -- scopes ---------------------------------------------------------------------------------

    def enter(self, stage: str, in_batch: bool, loader: int = 0, loaders: int = 1) -> None:
        """From now on `log` writes into this scope."""
        self._scope = (stage, in_batch, loader)
        self._loaders = loaders
        self._active = self.scopes.setdefault(self._scope, {})

    def in_step_alone(self) -> bool:
        """Whether a step is running that must not use collectives, since ranks may run different numbers of steps."""
        return self._scope[1] and self._scope[0] in self.alone

    def leave(self, where: str, scope: tuple[str, bool, int] | None = None) -> None:
        """From now on logging is an error, which says that it cannot be done `where`."""
        self._active, self._scope = None, scope or (self._scope[0], False, 0)
        self._where = where
        self.batch = None

    def mark(self) -> Callable[[], None]:
        """A function that restores what is logged in this scope now, for a step that has to be repeated."""
        active = self._active or {}
        held = {name: entry.held() for name, entry in active.items()}

        def go_back() -> None:
            for name, entry in active.items():
                entry.last, entry.total, entry.weight, entry.fresh = held.get(name, NOTHING)

        return go_back

    def _entries(self, stage: str | None) -> Iterator[Entry]:
        for (name, _, _), entries in self.scopes.items():
            if name == stage:
                yield from entries.values()

    # -- writing --------------------------------------------------------------------------------

    def log(
        self,
        name: str,
        value: Any,
        options: tuple[Any, ...],
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log one value; see `LightningModule.log`, and `entry.changed_options` for the order of `options`."""
        if rank_zero_only and not self.first:
            return
        active = self._active
        if active is None:
            raise MisconfigurationException(
                f"`self.log({name!r}, ...)` cannot be called {self._where}: "
                "log in steps, batch hooks or epoch hooks of training, validation and testing."
            )
        entry = active.get(name)
        if entry is None or (entry.options is not options and entry.options != options):
            check_first(name, value, batch_size)
            entry = self._register(active, name, value, options)
            if batch_size is None and entry.on_epoch and entry.reduction == "mean":
                self._check_size(entry)
        if isinstance(value, Tensor):
            if value.requires_grad:
                value = value.detach()
            if entry.on_step:
                # Copied: `loss += penalty`, an optimizer or a CUDA graph may change it before it is read.
                value = value.clone()
            if value.dim():
                value = one_element(name, value)
        elif type(value) is not float and type(value) is not int:
            if entry.metric is not None:
                self._log_metric(entry, value)
                return
            value = number(name, value)
        if entry.on_step:
            synced = entry.synced and not self.in_step_alone()
            entry.last = self._reduced(value, entry.reduction) if synced else value
            entry.fresh = True
        if entry.on_epoch:
            entry.accumulate(value, self._batch_size() if batch_size is None else batch_size)

    def _register(
        self, active: dict[str, Entry], name: str, value: Any, options: tuple[Any, ...]
    ) -> Entry:
        old = active.get(name)
        if old is not None and old.options is not None:
            raise MisconfigurationException(
                f"`self.log({name!r}, ...)` was called before in this stage with other options, perhaps in another "
                f"hook: {changed_options(old.options, options)}. Use the same options, or another name."
            )
        entry = old or self._new_entry(name, value, options)  # an old one is from a checkpoint
        entry.options = options
        entry.synced = options[5] and self.reduce is not None
        active[name] = entry
        return entry

    def _new_entry(self, name: str, value: Any, options: tuple[Any, ...]) -> Entry:
        if not isinstance(name, str):
            raise MisconfigurationException(f"`self.log` needs a name, got {name!r}.")
        stage, in_batch, loader = self._scope
        prog_bar, logger, on_step, on_epoch, reduce_fx, _, add_index = options
        on_step, on_epoch = levels(name, stage, in_batch, on_step, on_epoch)
        suffix = f"/dataloader_idx_{loader}" if self._loaders > 1 and add_index else ""
        choice = (prog_bar, logger, on_step, on_epoch, reduction_of(name, reduce_fx))
        entry = Entry(name, suffix, loader if in_batch else None, choice)
        if is_metric(value):
            entry.metric = value
        self.eval_steps |= on_step and stage != "train"
        return entry

    def _reduced(self, value: Scalar, reduction: str) -> Scalar:
        assert self.reduce is not None
        return self.reduce(torch.as_tensor(value, dtype=torch.float32), reduce_op=reduction)

    def _log_metric(self, entry: Entry, metric: Any) -> None:
        if entry.fresh and metric is not entry.metric:
            raise MisconfigurationException(
                f"`self.log({entry.name!r}, ...)` got another {type(metric).__name__} than before, which forgets "
                "earlier batches: make it once, as an attribute in `__init__`, and log that one."
            )
        entry.metric = metric
        entry.fresh = True
        if entry.on_step:
            entry.last = detached_copy(getattr(metric, "_forward_cache", None))

    def _check_size(self, entry: Entry) -> None:
        """Warn once if epoch means may be weighted by something other than the number of samples."""
        if self._warned or entry.metric is not None or self.batch is None or not self._scope[1]:
            return
        size, sizes = size_in(self.batch), sorted(set(islice(sizes_in(self.batch), 100)))
        if size is None:
            taken = "weighs every batch the same, since it is not known how many samples are in"
        elif len(sizes) > 1:
            taken = f"takes {size} as the number of samples, with tensors of {sizes} rows in"
        else:
            return
        self._warned = True
        warn(
            f"the mean of {entry.name!r} over an epoch {taken} a batch ({type(self.batch).__name__}). Say it: "
            "self.log(..., batch_size=...)."
        )

    def _batch_size(self) -> int:
        in_batch = self._scope[1] and self.batch is not None
        return batch_size_of(self.batch) if in_batch else 1

    # -- reading --------------------------------------------------------------------------------

    @contextmanager
    def closing(self, stage: str) -> Iterator[None]:
        """A context for the epoch-end hooks of `stage`, in which its epoch values can be read already."""
        self._closing = stage
        try:
            yield
        finally:
            self._closing = None

    def _news(self, *stages: str, wanted: str = "name") -> Iterator[tuple[Entry, str, Scalar]]:
        """Values that are not published yet, as (entry, "step" or "epoch", value), of entries whose attribute `wanted`
        is true: the last step values of `stages`, then the epoch values of the stage that is closing.
        """
        for stage in dict.fromkeys(stages):
            for entry in self._entries(stage):
                if entry.last is not None and getattr(entry, wanted):
                    yield entry, "step", entry.last
        for entry in self._entries(self._closing):
            value = entry.epoch_value() if entry.on_epoch and getattr(entry, wanted) else None
            if value is not None:
                yield entry, "epoch", value

    def callback_metrics(self) -> dict[str, Tensor]:
        """The newest value of every name, for monitors, as tensors."""
        merged = dict(self.callback_values)
        for entry, level, value in self._news("train"):
            merged[entry.label(level)] = merged[entry.name + entry.suffix] = value
        return {name: _as_float(value) for name, value in merged.items()}

    def logged_metrics(self) -> dict[str, Tensor]:
        """The newest value of every name with `logger=True`, whether sent yet or not, as tensors."""
        merged = dict(self.logged_values)
        for entry, level, value in self._news("train", wanted="logger"):
            if level == "epoch" or (entry.on_step and entry.fresh):
                merged[entry.label(level)] = value
        return {name: torch.as_tensor(value) for name, value in merged.items()}

    def progress_bar_metrics(self) -> dict[str, float]:
        """The newest values logged with `prog_bar=True` that have arrived on the host."""
        shown = dict(self.bar_values)
        for entry, level, value in self._news("train", self._scope[0], wanted="prog_bar"):
            if level == "epoch" or entry.on_step:
                shown[entry.label(level)] = value
        return self._bar.of(shown)

    def take_step(self, stage: str = "train", loader: int = 0) -> dict[str, Scalar]:
        """The step values logged since the last call, under the names that loggers see."""
        taken: dict[str, Scalar] = {}
        for entry in self._entries(stage):
            if not entry.on_step or entry.last is None or entry.loader not in (None, loader):
                continue
            if entry.metric is None and not entry.fresh:
                continue
            if entry.metric is None:
                entry.fresh = False  # for a Metric, `take_epoch` still needs the flag
            if entry.logger:
                taken[entry.label("step")] = entry.last
        return taken

    def compute(self, stage: str) -> None:
        """Compute the Metrics that steps of `stage` logged, before a hook may reset one."""
        for (name, in_batch, _), entries in self.scopes.items():
            for entry in entries.values() if name == stage and in_batch else ():
                if entry.metric is not None and entry.on_epoch:
                    entry.computed = entry.epoch_value()

    def merge(self, stage: str, gather: Callable[[Any], list[Any]], in_batch: bool) -> None:
        """Merge the values of `stage` over all ranks, in one collective; other ranks may have logged other names.

        `in_batch` chooses between values that steps logged and those that epoch hooks logged.

        Raises:
            MisconfigurationException: if a torchmetrics Metric was logged on some ranks only.
        """
        known = [(scope, e) for scope, entries in self.scopes.items() for e in entries.values()]
        everything = gather(
            {(s, e.name): e.packed() for s, e in known if s[:2] == (stage, in_batch)}
        )
        for scope, name in dict.fromkeys(key for packed in everything for key in packed):
            parts = [packed[scope, name] for packed in everything if (scope, name) in packed]
            entries = self.scopes.setdefault(scope, {})
            # Reinserted, so that all ranks have the same order: torchmetrics uses collectives in `compute`.
            entry = entries.pop(name) if name in entries else Entry.from_state(parts[0])
            entries[name] = entry
            if any(part["metric"] for part in parts) and len(parts) < len(everything):
                raise MisconfigurationException(
                    f"the metric {name!r} was logged by {len(parts)} of {len(everything)} processes only, so it "
                    "cannot be computed over all. Log it in every process, also where there is no batch."
                )
            entry.absorb(parts)

    def take_epoch(self, stage: str) -> dict[str, Scalar]:
        """Close an epoch of `stage`: reduce every epoch value, publish it, and start over."""
        with self.closing(stage):
            news = list(self._news(stage))
        taken: dict[str, Scalar] = {}
        self._by_loader.clear()
        for entry, level, value in news:
            name, ended = entry.label(level), level == "epoch"
            if entry.prog_bar and (ended or entry.on_step):
                self.bar_values[name] = value
            if ended or stage == "train":
                self.callback_values[name] = self.callback_values[entry.name + entry.suffix] = value
            if entry.logger and ended:
                taken[name] = self._by_loader.setdefault(entry.loader, {})[name] = value
            elif entry.logger and stage == "train" and entry.on_step and entry.fresh:
                self.logged_values[name] = value
        for entry in self._entries(stage):
            if entry.metric is not None and entry.fresh:
                entry.metric.reset()
            entry.clear()
        return taken

    def of_loader(self, loader: int) -> dict[str, float]:
        """The values of one loader in the last `take_epoch`, and those logged outside of loaders, as numbers."""
        taken = {**self._by_loader.get(loader, {}), **self._by_loader.get(None, {})}
        return {name: float(value) for name, value in taken.items()}

    def reset(self) -> None:
        """Start a new run: no name is known, nothing was logged."""
        self.scopes.clear()
        self.seen, self.eval_steps, self.alone = {}, False, set()
        self.validated = set()
        self._warned = False
        self.forget()

    def forget(self) -> None:
        """Forget every published value; names stay known."""
        self.callback_values, self.bar_values, self.logged_values = {}, {}, {}
        self._bar = Newest()

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

    def of_steps_only(self) -> list[str]:
        """The names that training logs for loggers at steps only, not at epochs."""
        entries = self._entries("train")
        return [e.name for e in entries if e.logger and e.on_step and not e.on_epoch]

    # -- to the loggers -------------------------------------------------------------------------

    def flush(self, values: Mapping[str, Scalar], header: dict[str, Any]) -> None:
        """Start copying `values` to the host, to be delivered with `header` in this order."""
        self._queue.append((header, HostCopy(values)))

    def deliver(self, send: Callable[[dict[str, Any], dict[str, float]], None], wait: bool) -> None:
        """Send every record that has arrived; with `wait`, all of them."""
        while self._queue and (wait or self._queue[0][1].arrived()):
            header, copy = self._queue.popleft()
            send(header, copy.read())

    # -- resume ---------------------------------------------------------------------------------

    def state_dict(self, names: Mapping[int, str]) -> dict[str, Any]:
        """What this epoch has accumulated, and the newest values, as tensors and plain values.

        `names`: from the id of each Metric in the model to its name.
        """
        partial = [
            {**entry.state_dict(), "scope": list(scope), "metric": names.get(id(entry.metric))}
            for scope, entries in self.scopes.items()
            for entry in entries.values()
            if entry.total is not None or entry.last is not None or entry.fresh
        ]
        newest = {
            "callback": self.callback_values,
            "bar": self.bar_values,
            "logged": self.logged_values,
        }
        return {
            "partial": partial,
            **tree_map_only(Tensor, detached_copy, newest),
            "seen": dict(self.seen),
            "validated": sorted(self.validated | self.names("validation")),
        }

    def load_state_dict(
        self, state: dict[str, Any], metrics: Mapping[str, Any], validates: bool
    ) -> None:
        """Restore a state; what validation logged is dropped if this run has no validation."""
        self.scopes.clear()
        for kept in state["partial"]:
            entry = Entry.from_state(kept)
            entry.metric = metrics.get(kept["metric"])
            stage, in_batch, loader = kept["scope"]
            self.scopes.setdefault((stage, in_batch, loader), {})[entry.name] = entry
        self.validated = set(state.get("validated", ()))
        gone = set() if validates else self.validated
        self.callback_values, self.bar_values, self.logged_values = (
            {name: value for name, value in state[key].items() if name not in gone}
            for key in ("callback", "bar", "logged")
        )
        self.seen = dict(state.get("seen", {}))
        self.eval_steps = bool(self.seen)


def _as_float(value: Scalar) -> Tensor:
    """As a float tensor, of 64 bits if it has them, else of 32: for comparing and averaging."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
