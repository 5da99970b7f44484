"""A baseline: the loss before training."""

from typing import Any

from scaffold_runtime import Callback, LightningModule, Trainer


class Before(Callback):
    """Prints the final validation loss, and that of the sanity check before training.

    The sanity check uses all batches if `num_sanity_val_steps` is -1.
    """

    loss: float | None = None

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loss = float(trainer.callback_metrics["val_loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss = state_dict["loss"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.loss is None or "val_loss" not in trainer.callback_metrics:
            return
        now = float(trainer.callback_metrics["val_loss"])
        trainer.print(f"val_loss {now:.3f}, before training {self.loss:.3f}")
