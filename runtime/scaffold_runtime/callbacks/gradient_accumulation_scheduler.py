"""GradientAccumulationScheduler: change the number of accumulated batches during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class GradientAccumulationScheduler(Callback):
    """Change how many batches are accumulated for one optimizer step, by epoch.

    Args:
        scheduling: epoch (from 0) to number of batches; each holds until the next one. `{0: 8, 4: 1}`
            accumulates 8 batches in epochs 0 to 3 and steps after every batch from epoch 4 on.

    Raises:
        MisconfigurationException: if an epoch or a number is wrong, or the trainer accumulates too.
    """

    def __init__(self, scheduling: dict[int, int]) -> None:
        if not scheduling:
            raise MisconfigurationException(
                "GradientAccumulationScheduler(scheduling={}) is empty: give {epoch: batches}."
            )
        for epoch, batches in scheduling.items():
            if not isinstance(epoch, int) or epoch < 0:
                raise MisconfigurationException(
                    f"GradientAccumulationScheduler: {epoch!r} is not an epoch. Count from 0."
                )
            if not isinstance(batches, int) or batches < 1:
                raise MisconfigurationException(
                    f"GradientAccumulationScheduler: {batches!r} batches from epoch {epoch} on is not "
                    "possible. Give an integer of at least 1."
                )
        self.scheduling = {0: 1, **scheduling}
        self.epochs = sorted(self.scheduling)
        self._applied = False

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """How many batches are accumulated in `epoch`."""
        return self.scheduling[max(start for start in self.epochs if start <= epoch)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.accumulate_grad_batches != 1:
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) and "
                "GradientAccumulationScheduler both decide how much is accumulated: leave one out."
            )
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "GradientAccumulationScheduler has no effect in manual optimization, which "
                f"{type(pl_module).__name__} uses: step every n-th batch in `training_step` instead."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._applied = True
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)

    on_train_start = on_train_epoch_start  # a run resumed within an epoch has no epoch start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._applied, trainer.accumulate_grad_batches = False, 1

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._applied:  # not if `on_fit_start` raised
            self.on_train_end(trainer, pl_module)
