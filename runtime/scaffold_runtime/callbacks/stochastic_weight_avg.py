"""StochasticWeightAveraging: average the weights of the last epochs, at a constant learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR

from scaffold_runtime.checks import check_whole
from scaffold_runtime.errors import MisconfigurationException, check_choice, warn
from scaffold_runtime.hooks import Callback
from scaffold_runtime.metrics import Metrics
from scaffold_runtime.optim import LRSchedulerConfig

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(average so far, current value, number of values in the average) -> new average"""


class StochasticWeightAveraging(Callback):
    """From `swa_epoch_start` on, move the learning rate to `swa_lrs` and average the weights at the start of
    every epoch. After the last epoch the module holds the average; batch norm statistics are recomputed for it in
    one pass over the training data.

    Args:
        swa_lrs: the learning rate to move to; a list for several parameter groups.
        swa_epoch_start: the epoch, counted from 1, or a fraction of `max_epochs` (a float from 0 to 1).
        annealing_epochs: how many epochs the change takes.
        annealing_strategy: "cos" or "linear": the shape of the change.
        avg_fn: from (average, current value, count) to the new average; the mean if None.
        device: where the average is kept; the module's device if None.

    Raises:
        MisconfigurationException: if an argument is wrong, or there is not exactly one optimizer.
    """

    def __init__(
        self,
        swa_lrs: float | list[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: str = "cos",
        avg_fn: Average | None = None,
        device: torch.device | str | None = "cpu",
    ) -> None:
        rates = swa_lrs if isinstance(swa_lrs, list) else [swa_lrs]
        if not rates or not all(isinstance(rate, float) and rate > 0 for rate in rates):
            raise MisconfigurationException(
                f"StochasticWeightAveraging(swa_lrs={swa_lrs!r}): give a positive float, or a list of them."
            )
        whole = isinstance(swa_epoch_start, int) and swa_epoch_start >= 1
        share = isinstance(swa_epoch_start, float) and 0 <= swa_epoch_start <= 1
        if not (whole or share):
            raise MisconfigurationException(
                f"StochasticWeightAveraging(swa_epoch_start={swa_epoch_start!r}): give an epoch (an int of at "
                "least 1) or a share of max_epochs (a float from 0.0 to 1.0)."
            )
        check_choice(self, "annealing_strategy", annealing_strategy, "cos", "linear")
        self._swa_lrs, self._swa_epoch_start = swa_lrs, swa_epoch_start
        self._annealing_epochs, self._annealing_strategy = annealing_epochs, annealing_strategy
        self._avg_fn, self._device = avg_fn or _mean, device
        self._average: list[Tensor] | None = None
        self._count = 0
        self._latest_epoch = -1
        # The epochs (from 0) that are averaged; a fit sets them when it starts.
        self.swa_start = self._last = 0

    # -- hooks ------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_whole(self, trainer)
        if stage == "fit":
            self._average, self._count, self._latest_epoch = None, 0, -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = len(trainer.optimizers), len(trainer.lr_scheduler_configs)
        if counts[0] != 1 or counts[1] > 1:
            raise MisconfigurationException(
                "StochasticWeightAveraging works with one optimizer and at most one scheduler, but "
                f"`configure_optimizers` returned {counts[0]} and {counts[1]}."
            )
        if trainer.max_epochs == -1:
            raise MisconfigurationException(
                "StochasticWeightAveraging must know when training ends: set Trainer(max_epochs=...)."
            )
        start = self._swa_epoch_start
        epoch = int(trainer.max_epochs * start) if isinstance(start, float) else start
        self.swa_start, self._last = max(epoch - 1, 0), trainer.max_epochs - 1
        if self._average is not None:  # resumed; the scheduler's own state follows after this hook
            device = self._device or pl_module.device
            self._average = [average.to(device) for average in self._average]
            self._replace_scheduler(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if not self.swa_start <= epoch <= self._last or epoch <= self._latest_epoch:
            return
        if self._average is None:
            self._replace_scheduler(trainer)
        self._add_to_average(pl_module)
        self._latest_epoch = epoch

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer._live().ended:  # resumed with nothing left to train
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if self._average is None or epoch <= self._last:
            trainer.print(
                f"StochasticWeightAveraging: training ended after {epoch} of {self._last + 1} epochs, and "
                f"averaging begins with epoch {self.swa_start + 1}: the module has its last weights, not an average."
            )
            return
        for average, current in zip(self._average, pl_module.parameters(), strict=True):
            current.detach().copy_(average)
        refresh_batch_norm(trainer, pl_module)

    def _add_to_average(self, pl_module: LightningModule) -> None:
        device = self._device or pl_module.device
        current = [p.detach().to(device, copy=True) for p in pl_module.parameters()]
        count = torch.tensor(self._count, device=device)
        average = self._average
        self._average = (
            current
            if average is None
            else [self._avg_fn(a, c, count) for a, c in zip(average, current, strict=True)]
        )
        self._count += 1

    def _replace_scheduler(self, trainer: Trainer) -> None:
        """Replace the module's scheduler by SWALR."""
        optimizer = trainer.optimizers[0]
        rates = self._swa_lrs
        rates = rates if isinstance(rates, list) else [rates] * len(optimizer.param_groups)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        scheduler = SWALR(
            optimizer,
            swa_lr=rates,  # type: ignore[arg-type] # torch takes a list, too
            anneal_epochs=self._annealing_epochs,
            anneal_strategy=self._annealing_strategy,  # type: ignore[arg-type] # checked
        )
        trainer._live().schedules.replace([LRSchedulerConfig(scheduler)])

    # -- state ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        if self._average is None:
            return {}
        return {"n_averaged": self._count, "latest_update_epoch": self._latest_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._count = state_dict["n_averaged"]
        self._latest_epoch = state_dict["latest_update_epoch"]
        self._average = state_dict.get("average")  # missing if a child process trained

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average here and not in `state_dict`, which is copied before each validation."""
        if self._average is not None and "callbacks" in checkpoint:
            checkpoint["callbacks"][self.state_key]["average"] = self._average


def _mean(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
    """The mean with one more value. torch's own function cannot be pickled for new processes."""
    return average + (current - average) / (count + 1)


def refresh_batch_norm(trainer: Trainer, pl_module: LightningModule) -> None:
    """Recompute running statistics, in one pass over the training data without training."""
    layers = [m for m in pl_module.modules() if isinstance(m, _BatchNorm)]
    if not layers:
        return
    if not pl_module.automatic_optimization:
        warn(
            "running statistics of batch norm were not recomputed for the averaged weights: `training_step` steps "
            "the optimizers itself. `torch.optim.swa_utils.update_bn(loader, model)` does that."
        )
        return
    run, momenta = trainer._live(), [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over all batches
    discarded = Metrics()  # what this pass logs
    discarded.enter("train", in_batch=True)
    kept, pl_module._metrics = pl_module._metrics, discarded
    try:
        with torch.no_grad():
            for index, (batch, _) in enumerate(run.feed.train.begin(trainer.current_epoch, 0)):
                batch = run.to_device(batch, 0)
                run.training_step(batch, index)
    finally:
        pl_module._metrics = kept
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
