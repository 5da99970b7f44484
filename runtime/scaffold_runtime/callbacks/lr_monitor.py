"""LearningRateMonitor: log learning rates as schedulers change them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.trainer import Trainer


class LearningRateMonitor(Callback):
    """Log the learning rate of every parameter group.

    Names are `lr-Adam`, `lr-Adam/pg1` and `/pg2` for groups, `lr-Adam-1` for a second Adam, or the
    `name` given in the scheduler dict. All values logged so far are in `lrs`.

    Args:
        logging_interval: "step", "epoch", or None: as often as the schedulers step.
        log_momentum: log momentum too, under `name-momentum`.
        log_weight_decay: log weight decay too, under `name-weight_decay`.

    Raises:
        MisconfigurationException: if an argument is wrong, or the trainer has no logger.
    """

    def __init__(
        self,
        logging_interval: str | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise MisconfigurationException(
                f"LearningRateMonitor(logging_interval={logging_interval!r}): choose 'step', 'epoch' or None."
            )
        self.logging_interval = logging_interval
        self.log_momentum, self.log_weight_decay = log_momentum, log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self._named: list[tuple[str, Optimizer]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.loggers and not trainer.fast_dev_run and not trainer.barebones:
            raise MisconfigurationException(
                "LearningRateMonitor has nothing to log to: the trainer has logger=False."
            )
        self._named = _names(trainer)
        self.lrs = {name: [] for name in self._values()}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        if due and self.logging_interval != "epoch" and trainer.loggers:
            every = None if self.logging_interval == "step" else "step"
            self._log(trainer, every)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logging_interval != "step" and trainer.loggers:
            every = None if self.logging_interval == "epoch" else "epoch"
            self._log(trainer, every)

    def _log(self, trainer: Trainer, interval: str | None) -> None:
        """Log those whose scheduler steps at `interval`; all of them if None."""
        intervals = {id(c.scheduler.optimizer): c.interval for c in trainer.lr_scheduler_configs}
        wanted = {
            name
            for name, optimizer in self._named
            if interval is None or intervals.get(id(optimizer), "epoch") == interval
        }
        values = {k: v for k, v in self._values().items() if _root(k, wanted)}
        if not values:
            return
        for name, value in values.items():
            self.lrs.setdefault(name, []).append(value)
        run = trainer._live()
        run.send(values, trainer.global_step)
        run.deliver(wait=False)

    def _values(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, optimizer in self._named:
            groups = optimizer.param_groups
            for index, group in enumerate(groups, start=1):
                label = f"{name}/pg{index}" if len(groups) > 1 else name
                values[label] = float(group["lr"])
                if self.log_momentum:
                    momentum = group.get("momentum", group.get("betas", (0.0,))[0])
                    values[f"{label}-momentum"] = float(momentum)
                if self.log_weight_decay:
                    values[f"{label}-weight_decay"] = float(group.get("weight_decay", 0.0))
        return values


def _root(label: str, names: set[str]) -> bool:
    suffixes = ("/", "-momentum", "-weight_decay")
    starts = tuple(name + suffix for name in names for suffix in suffixes)
    return label in names or label.startswith(starts)


def _names(trainer: Trainer) -> list[tuple[str, Optimizer]]:
    """A name for every optimizer: its scheduler's, or its own class, numbered where it repeats."""
    given = {id(c.scheduler.optimizer): c.name for c in trainer.lr_scheduler_configs if c.name}
    seen: Counter[str] = Counter()
    named: list[tuple[str, Optimizer]] = []
    for optimizer in trainer.optimizers:
        name = given.get(id(optimizer)) or f"lr-{type(optimizer).__name__}"
        named.append((f"{name}-{seen[name]}" if seen[name] else name, optimizer))
        seen[name] += 1
    return named
