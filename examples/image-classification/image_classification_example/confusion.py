"""A picture of the confusion matrix."""

from typing import Any

import torch
from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor

from image_classification_example.pictures import save_picture


class ConfusionMatrix(Callback):
    """Counts predictions in each validation, and draws the counts of the last one."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        data, classes = trainer.datamodule, pl_module.hparams.classes
        found = getattr(data, "channels", 0)
        channels = getattr(pl_module.hparams, "channels", found)
        if found not in (0, channels):
            raise MisconfigurationException(
                f"the images have {found} channels, and the model takes {channels}: "
                f"set model.channels to {found}."
            )
        found = getattr(data, "classes", 0)
        if found > classes:
            raise MisconfigurationException(
                f"the data have {found} classes, and the model has {classes}: "
                f"set model.classes to {found}."
            )
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def on_validation_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        self.counts.zero_()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: list[Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        pairs = zip(batch[1].tolist(), outputs["predicted"].tolist(), strict=True)
        for label, predicted in pairs:
            self.counts[label, predicted] += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gathered = pl_module.all_gather(self.counts.to(pl_module.device)).cpu()
        counts = gathered.view(-1, *self.counts.shape).sum(0)  # over processes
        if not counts.any():  # validation never ran
            return
        from matplotlib.figure import Figure  # imported here, since that takes long

        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        axes.matshow(counts.numpy(), cmap="Blues", norm="symlog", alpha=0.6)
        for label, row in enumerate(counts.tolist()):
            for predicted, count in enumerate(row):
                axes.text(predicted, label, str(count or ""), ha="center", va="center")
        axes.set(xlabel="predicted", ylabel="class")
        axes.set(xticks=range(len(self.counts)), yticks=range(len(self.counts)))
        save_picture(trainer, figure, "confusion")
