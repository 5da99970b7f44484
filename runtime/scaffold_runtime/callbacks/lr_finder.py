"""LearningRateFinder: try rising learning rates on a few batches, and use the one at which the loss falls
fastest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaffold_runtime.callbacks.tuned_attribute import TunedAttribute
from scaffold_runtime.checkpoint.snapshot import Snapshot
from scaffold_runtime.errors import MisconfigurationException, check_choice, warn
from scaffold_runtime.extras import require
from scaffold_runtime.hooks import Callback
from scaffold_runtime.optim import give_base

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

BETA = 0.98  # weight of the old smoothed loss at each step


class LRFinder:
    """What a search found: `results["lr"]` and `results["loss"]`, one value per step."""

    def __init__(self, mode: str, lr_min: float, lr_max: float, num_training: int) -> None:
        self.mode, self.lr_min, self.lr_max, self.num_training = mode, lr_min, lr_max, num_training
        self.results: dict[str, list[float]] = {"lr": [], "loss": []}

    def rate(self, step: int) -> float:
        """The learning rate of a step of the search, from `lr_min` to `lr_max`."""
        if step == 0:
            return self.lr_min
        share = (step + 1) / self.num_training
        if self.mode == "linear":
            return self.lr_min + share * (self.lr_max - self.lr_min)
        return float(self.lr_min * (self.lr_max / self.lr_min) ** share)

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """The rate at which the loss falls fastest, without the first and last steps; None, with a warning, if too
        few steps are left."""
        place = self._steepest(skip_begin, skip_end)
        return None if place is None else self.results["lr"][place]

    def _steepest(self, skip_begin: int = 10, skip_end: int = 1) -> int | None:
        losses, rates = self.results["loss"], self.results["lr"]
        places = range(skip_begin, len(losses) - skip_end)
        finite = [place for place in places if math.isfinite(losses[place])]
        if len(finite) < 2:
            warn(
                f"{len(finite)} of {len(losses)} steps are too few to suggest a learning rate. Take more steps, "
                "or lower `skip_begin`."
            )
            return None
        # Slopes over the log of an exponential rate: over the rate itself, noise at 1e-8 is steeper than any real fall.
        scale = math.log if self.mode == "exponential" else float
        spacing = torch.tensor([scale(rates[place]) for place in finite])
        slopes = torch.gradient(torch.tensor([losses[p] for p in finite]), spacing=[spacing])[0]
        return finite[int(torch.argmin(slopes))]

    def plot(self, suggest: bool = False, show: bool = False, ax: Any = None) -> Any:
        """Draw loss over learning rate and return the matplotlib figure (`.savefig("lr.png")` keeps it).

        Args:
            suggest: mark the suggested rate.
            show: open a window.
            ax: axes to draw into; a new figure if None.

        Raises:
            MissingExtra: if `matplotlib` is not installed.
        """
        pyplot = require("matplotlib.pyplot", "scaffold-runtime[plot]", "lr_find's plot")
        figure, ax = pyplot.subplots() if ax is None else (ax.figure, ax)
        rates, losses = self.results["lr"], self.results["loss"]
        ax.plot(rates, losses)
        if self.mode == "exponential":
            ax.set_xscale("log")
        ax.set_xlabel("Learning rate")
        ax.set_ylabel("Loss")
        place = self._steepest() if suggest else None
        if place is not None:
            ax.plot(rates[place], losses[place], marker="o", markersize=10, color="red")
        if show:
            pyplot.show()
        return figure


class LearningRateFinder(Callback):
    """Search for a learning rate before training, and train with it. Weights, random state and data are restored
    after the search; a resumed run uses the learning rate found before.

    Override `on_train_epoch_start` and call `lr_find` there to search again later.

    Args:
        min_lr: the first learning rate.
        max_lr: the last learning rate.
        num_training_steps: how many steps the search takes.
        mode: "exponential" or "linear": how the learning rate rises.
        early_stop_threshold: stop when the loss is this many times its best; None for never.
        update_attr: set the learning rate found on the module, and in its optimizer.
        attr_name: the attribute to set; `lr` or `learning_rate` if not given.

    Raises:
        MisconfigurationException: if there is not exactly one optimizer, or no such attribute.
    """

    def __init__(
        self,
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training_steps: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> None:
        check_choice(self, "mode", mode, "exponential", "linear")
        self._min_lr, self._max_lr, self._num_training_steps = min_lr, max_lr, num_training_steps
        self._mode, self._early_stop_threshold = mode, early_stop_threshold
        self._update_attr, self._attr_name = update_attr, attr_name
        self.optimal_lr: LRFinder | None = None
        self._found: float | None = None
        self._restored = False

    def state_dict(self) -> dict[str, Any]:
        return {} if self._found is None else {"lr": self._found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._found, self._restored = state_dict["lr"], True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restored, self._restored = self._restored, False
        if not restored:
            self.lr_find(trainer, pl_module)
        elif self._update_attr:
            # The rate of the optimizer is restored with its state.
            self._attribute(trainer).set(self._found)

    def lr_find(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search now."""
        if trainer.fast_dev_run:
            warn("no learning rate is searched in fast_dev_run.")
            return
        if len(trainer.optimizers) != 1:
            raise MisconfigurationException(
                "the learning rate finder works with one optimizer, but `configure_optimizers` returned "
                f"{len(trainer.optimizers)}."
            )
        attribute = self._attribute(trainer) if self._update_attr else None
        snapshot = Snapshot(trainer._live())
        steps = self._num_training_steps
        finder = LRFinder(self._mode, self._min_lr, self._max_lr, steps)
        try:
            trainer.rehearse([_Probe(finder, self._early_stop_threshold)], steps)
        finally:
            snapshot.put_back()
        self.optimal_lr = finder
        if attribute is not None:
            self._found = finder.suggestion()
            if self._found is not None:
                attribute.set(self._found)
                _set_rate(trainer, self._found)
                trainer.print(f"Learning rate set to {self._found:.4g}")

    def _attribute(self, trainer: Trainer) -> TunedAttribute:
        names = (self._attr_name,) if self._attr_name else ("lr", "learning_rate")
        return TunedAttribute(trainer, names, "the learning rate finder", "attr_name")


class _Probe(Callback):
    """Raises the learning rate step by step, and records it with the smoothed loss."""

    def __init__(self, finder: LRFinder, threshold: float | None) -> None:
        self.finder, self.threshold = finder, threshold
        self.average, self.best = 0.0, math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer._live().schedules.replace([])  # only this changes the rate

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        rate = self.finder.rate(trainer.global_step)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs is None or trainer._live().mid_window:
            return
        loss = float(outputs if isinstance(outputs, Tensor) else outputs["loss"])
        results = self.finder.results
        self.average = BETA * self.average + (1 - BETA) * loss
        smooth = self.average / (1 - BETA ** (len(results["loss"]) + 1))
        results["lr"].append(trainer.optimizers[0].param_groups[0]["lr"])
        results["loss"].append(smooth)
        seen = len(results["loss"])
        if self.threshold is not None and seen > 2 and smooth > self.threshold * self.best:
            trainer.should_stop = True
        self.best = min(self.best, smooth) if seen > 1 else smooth


def _set_rate(trainer: Trainer, rate: float) -> None:
    """Set this rate in the optimizer, and as the base rate of its schedulers."""
    for group in trainer.optimizers[0].param_groups:
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        group["lr"] = rate * factor
        if "initial_lr" in group:
            group["initial_lr"] = rate
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    own = [kind for scheduler in schedulers for kind in give_base(scheduler, rate)]
    if own and not trainer.tries:  # after a Tuner, the next `configure_optimizers` reads it
        warn(
            f"{own[0]} sets learning rates itself, so training does not take the one that was found. Search "
            "before training instead: `Tuner(trainer).lr_find(model)`."
        )
