"""LearningRateMonitor: log learning rates as schedulers change them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.optim import Optimizer

from scaffold_runtime.checks import check_logs
from scaffold_runtime.errors import MisconfigurationException, check_choice
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class Named(NamedTuple):
    """An optimizer, the name of its rates, and how often they change: "step", "epoch", or "any"."""

    name: str
    optimizer: Optimizer
    interval: str


class LearningRateMonitor(Callback):
    """Log the learning rate of every parameter group, and keep it in `callback_metrics`.

    Names are `lr-Adam`, `lr-Adam/pg1` and `/pg2` for groups (or the groups' own `name`), `lr-Adam-1` for a second
    Adam or scheduler, or the `name` given in the scheduler dict. All rates logged so far are in `lrs`.

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
        check_choice(self, "logging_interval", logging_interval, "step", "epoch", None)
        self.logging_interval = logging_interval
        self.log_momentum, self.log_weight_decay = log_momentum, log_weight_decay
        self.lrs: dict[str, list[float]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_logs(self, trainer)
        self.lrs = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        due = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        # Once per accumulation window.
        if due and self.logging_interval != "epoch" and not trainer._live().mid_window:
            self._log(trainer, "step")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logging_interval != "step":
            self._log(trainer, "epoch")

    def _log(self, trainer: Trainer, now: str) -> None:
        """Log the rates that change at `now` ("step" or "epoch"); all of them if an interval was given."""
        if not trainer.loggers:
            return
        values = self._extract_stats(trainer, "any" if self.logging_interval else now)
        if values:
            run = trainer._live()
            run.send(values, trainer.global_step)
            run.deliver(wait=False)

    def _extract_stats(self, trainer: Trainer, interval: str) -> dict[str, float]:
        """The rates that change at "step", "epoch", or "any"; adds them to `lrs` and `callback_metrics`."""
        values: dict[str, float] = {}
        for named in _named(trainer):
            if interval == "any" or named.interval in (interval, "any"):
                values |= self._values(named)
        trainer.metrics.callback_values.update(values)
        return values

    def _values(self, named: Named) -> dict[str, float]:
        values: dict[str, float] = {}
        groups = named.optimizer.param_groups
        for index, group in enumerate(groups, start=1):
            part = group.get("name", f"pg{index}" if len(groups) > 1 else None)
            label = f"{named.name}/{part}" if part else named.name
            if label in values:
                raise MisconfigurationException(
                    f"two parameter groups of {type(named.optimizer).__name__} are called {part!r}: give each a "
                    "name of its own, or none."
                )
            values[label] = float(group["lr"])
            self.lrs.setdefault(label, []).append(values[label])
            if self.log_momentum:
                momentum = group.get("momentum", group.get("betas", (0.0,))[0])
                values[f"{label}-momentum"] = float(momentum)
            if self.log_weight_decay:
                values[f"{label}-weight_decay"] = float(group.get("weight_decay", 0.0))
        return values


def _named(trainer: Trainer) -> list[Named]:
    """Every scheduler's optimizer, then optimizers without one; repeated names are numbered."""
    found = [(c.name, c.scheduler.optimizer, c.interval) for c in trainer.lr_scheduler_configs]
    scheduled = [optimizer for _, optimizer, _ in found]
    found += [(None, other, "any") for other in trainer.optimizers if other not in scheduled]
    seen: Counter[str] = Counter()
    named: list[Named] = []
    for given, optimizer, interval in found:
        name = given or f"lr-{type(optimizer).__name__}"
        named.append(Named(f"{name}-{seen[name]}" if seen[name] else name, optimizer, interval))
        seen[name] += 1
    return named
