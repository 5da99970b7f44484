"""A baseline: the same network, trained from scratch on the same few images."""

from typing import Any

from scaffold_runtime import Callback, Trainer

from finetune_example.model import FineTuned


class FromScratch(Callback):
    """Trains it for as many epochs, and prints the accuracy of both."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if pl_module.hparams.backbone != "digits" or trainer.world_size > 1:
            return
        if "val_acc" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        scratch = Trainer(
            max_epochs=trainer.current_epoch,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model = FineTuned(lr=pl_module.hparams.lr)
        scratch.fit(model, data.train_dataloader(), data.val_dataloader())
        finetuned, baseline = (
            float(each.callback_metrics["val_acc"]) for each in (trainer, scratch)
        )
        trainer.print(f"val_acc {finetuned:.3f}, from scratch {baseline:.3f}")
