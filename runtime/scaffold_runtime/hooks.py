"""The hooks: what they are, and the base classes of callbacks.

The methods of `Callback` and of `LightningModule` are the contract that the loops, the table of a run, the
documentation and the order test share.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.trainer import Trainer


def hook_names(base: type) -> tuple[str, ...]:
    """The hooks of callbacks, modules or data modules, in the order in which a fit first calls them: the methods
    `on_...` that `base`, which all of these derive from, has itself, between `setup` and `teardown`.
    """
    own = vars(base).items()
    called = (name for name, value in own if name.startswith("on_") and isfunction(value))
    return ("setup", *called, "teardown")


class Callback:
    """Code that runs at given points of training. Override the hooks you need.

    Each hook receives the trainer and the module first. State to be saved in checkpoints goes
    through `state_dict` and `load_state_dict`, under `state_key`. `self.log` and `self.log_dict`
    work inside hooks as they do in a module.
    """

    runs_last: bool = False  # `on_train_epoch_end` runs after the module's, with its epoch metrics
    log: Callable[..., None]  # attached while a run is open
    log_dict: Callable[..., None]

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint; two callbacks must not share one."""
        return type(self).__qualname__

    def _generate_state_key(self, **settings: Any) -> str:
        """For `state_key`: a key that differs for callbacks of the same type with other settings."""
        return f"{type(self).__qualname__}{settings!r}"

    def state_dict(self) -> dict[str, Any]:
        """What to save: tensors and plain values only. It is copied before each validation inside training, so
        save large state that validation does not change in `on_save_checkpoint` instead.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit, validate, test or predict begins; `stage` is its name."""

    def _model_made(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All layers exist, also those of `configure_model`, but no optimizers yet."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is on its device and the optimizers exist."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A few validation batches are about to run before training."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation batches before training have run."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins, after the sanity check."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch begins."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is on the device and about to be trained on."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch was trained on; `outputs` holds what `training_step` returned, detached."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch ends, after its validation."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch has ended."""

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Before backward of the loss."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After backward: gradients are available."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are complete and unscaled, not yet clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the validation data begins."""

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation batch is about to be evaluated."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation batch was evaluated."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the validation data ends; metrics may still be logged."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends, its metrics are final."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing begins."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the test data begins."""

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test batch is about to be evaluated."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test batch was evaluated."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the test data ends; metrics may still be logged."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing ends, its metrics are final."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction begins."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the prediction data begins."""

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch is about to be predicted."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch was predicted; `outputs` is what `predict_step` returned."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the prediction data ends."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction ends."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is complete and about to be written; add to it if you must."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint was read and is about to be applied."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Something was raised, Ctrl-C included; it is raised again after this."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over, nothing is torn down yet."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit, validate, test or predict ends."""


class Checkpoint(Callback):
    """Base of callbacks that save checkpoints: they run last, after every other hook.

    Request a save in a hook, and write it in `commit`, which the loop calls when its state is complete. All of
    them `decide` what to write before any of them writes, so that each file contains the decisions of all.
    """

    runs_last = True
    asked = True  # whether the next commit has something to write

    def decide(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state of the run is complete: decide what to write."""

    def commit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state of the run is complete: write what was requested."""

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training has ended, before any `on_train_end`: write what is missing."""


def overridden(name: str, owner: object, base: type) -> bool:
    """Whether `owner` overrides `name`, in its class or on the instance; setting None switches a hook off."""
    if getattr(owner, name, None) is None:
        return False
    if name in vars(owner):
        return True
    return getattr(type(owner), name, None) is not getattr(base, name, None)


def ask(owner: Any, name: str, *arguments: Any) -> Any:
    """Call a method that is not in the hook table, unless it is set to None."""
    method = getattr(owner, name)
    return None if method is None else method(*arguments)
