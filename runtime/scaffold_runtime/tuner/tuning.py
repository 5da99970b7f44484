"""Tuner: find a learning rate or a batch size before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaffold_runtime.callbacks.batch_size_finder import BatchSizeFinder
from scaffold_runtime.callbacks.lr_finder import LearningRateFinder, LRFinder
from scaffold_runtime.errors import MisconfigurationException, check_choice
from scaffold_runtime.feed import STAGES
from scaffold_runtime.hooks import Callback
from scaffold_runtime.seed import isolate_rng

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer
    from scaffold_runtime.data import LightningDataModule


class Tuner:
    """Search for a learning rate or batch size with a trainer's settings. Nothing is logged or written, the trainer is
    not changed, weights and random state are restored, and the trainer's callbacks are not called.

    Args:
        trainer: the trainer whose settings are used.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def lr_find(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: str = "fit",
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> LRFinder | None:
        """Train with rising learning rates: `suggestion()` of the result is where the loss falls fastest, and
        `plot(suggest=True)` shows it. None in fast_dev_run.

        Args:
            model: what to train.
            train_dataloaders: a loader, or a data module.
            val_dataloaders: accepted; validation does not matter here.
            dataloaders: accepted; for methods other than "fit", which find no learning rate.
            datamodule: a data module, in place of loaders.
            method: "fit".
            min_lr: the first learning rate.
            max_lr: the last learning rate.
            num_training: how many steps to take.
            mode: as for `LearningRateFinder`, like the three that follow.
            early_stop_threshold: end the search when the loss is this many times its best.
            update_attr: whether to set the module's learning rate to the one found.
            attr_name: the attribute to set, if it is not `lr` or `learning_rate`.

        Raises:
            MisconfigurationException: if there is not exactly one optimizer, or no such attribute.
        """
        if method != "fit":
            raise MisconfigurationException(
                f"lr_find(method={method!r}): a learning rate is found in 'fit' only."
            )
        finder = LearningRateFinder(
            min_lr, max_lr, num_training, mode, early_stop_threshold, update_attr, attr_name
        )
        self._run("fit", finder, model, train_dataloaders, val_dataloaders, datamodule)
        return finder.optimal_lr

    def scale_batch_size(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: str = "fit",
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> int | None:
        """Search for the largest batch size that fits into memory, and set it. None in fast_dev_run.

        Args:
            model: what to run.
            train_dataloaders: a data module; the size of loaders cannot be changed.
            val_dataloaders: the same.
            dataloaders: the same, for methods other than "fit".
            datamodule: where loaders come from, if not from the model.
            method: "fit", "validate", "test" or "predict".
            mode: as for `BatchSizeFinder`, like all that follow.
            steps_per_trial: steps tried with each size.
            init_val: the first size.
            max_trials: how many sizes are tried.
            batch_arg_name: the attribute that holds the size.
            margin: in "binsearch", the fraction by which the result is lowered.
            max_val: the largest size tried.

        Raises:
            MisconfigurationException: if there is no such attribute, or loaders were passed.
        """
        finder = BatchSizeFinder(
            mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val
        )
        loaders = train_dataloaders if method == "fit" else dataloaders
        self._run(method, finder, model, loaders, val_dataloaders, datamodule)
        return finder.optimal_batch_size

    def _run(
        self,
        method: str,
        finder: Callback,
        model: LightningModule,
        loaders: Any,
        val_loaders: Any,
        datamodule: LightningDataModule | None,
    ) -> None:
        """Run `method` without steps of its own, so that only the finder's first hook works in it."""
        kind = type(finder)
        if any(isinstance(callback, kind) for callback in self._trainer.callbacks):
            raise MisconfigurationException(
                f"the trainer has a {kind.__name__} already, so the search would run twice: "
                "leave that callback out, or do without the Tuner."
            )
        trial, attached = self._trainer.trial([finder], steps=0), model._trainer
        check_choice(self, "method", method, *STAGES)
        more = (val_loaders,) if method == "fit" else ()
        try:
            with isolate_rng():
                getattr(trial, method)(model, loaders, *more, datamodule=datamodule)
        finally:
            model._trainer = attached
