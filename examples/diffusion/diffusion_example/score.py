"""Inception score of samples, by a small classifier trained on real images."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.errors import MisconfigurationException
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusion_example.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SampleScore(Callback):
    """Logs `val_score`, the inception score: from 1 up to the number of classes."""

    def __init__(self, count: int = 500) -> None:
        self.count = count
        self.classifier: MLPClassifier | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule
        given, model = tuple(data.train[0][0].shape), pl_module.hparams
        if given != (model.channels, model.size, model.size):
            raise MisconfigurationException(
                f"images have the shape {given}: set model.channels to {given[0]} "
                f"and model.size to {given[1]}."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """In this hook, since averaged weights (EMA) are in place only now."""
        self.samples = pl_module.sample(self.count).cpu()
        self.log("val_score", self.score(trainer, self.samples), prog_bar=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val_score" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        ours = float(trainer.callback_metrics["val_score"])
        real, _ = whole(data.val)
        noise = self.score(trainer, torch.rand_like(self.samples))
        trainer.print(
            f"val_score {ours:.2f}, real images {self.score(trainer, real):.2f}, "
            f"noise {noise:.2f}"
        )
        save_picture(trainer, grid(self.samples), "samples")

    def score(self, trainer: Trainer, images: Tensor) -> float:
        """exp of the mean KL divergence from the mean class probabilities."""
        if self.classifier is None:
            data: Any = trainer.datamodule
            real, labels = whole(data.train)
            self.classifier = MLPClassifier(64, max_iter=500, tol=1e-3, random_state=0)
            self.classifier.fit(real.flatten(1), labels)
        chances = self.classifier.predict_proba(images.flatten(1)) + 1e-9
        divergence = chances * (np.log(chances) - np.log(chances.mean(axis=0)))
        return float(np.exp(divergence.sum(axis=1).mean()))


def whole(part: Dataset) -> tuple[Tensor, Tensor]:
    """The first 10,000 images and labels."""
    images, labels = next(iter(DataLoader(part, batch_size=10_000)))
    return images, labels


def grid(images: Tensor, side: int = 8) -> "Figure":
    from matplotlib.figure import Figure  # imported here, since that takes long

    figure = Figure(figsize=(5, 5), layout="constrained")
    places = figure.subplots(side, side).flat
    for axes, image in zip(places, images, strict=False):
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray")
        axes.set_axis_off()
    return figure
