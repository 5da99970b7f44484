"""Inception score of samples, with a small classifier trained on real images."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scaffold_runtime import Callback, LightningModule, Trainer
from scaffold_runtime.errors import MisconfigurationException
from sklearn.neural_network import MLPClassifier
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from generative_adversarial_example.pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SampleScore(Callback):
    """Logs `val_score`, the inception score: from 1 up to the number of classes."""

    def __init__(self, count: int = 500) -> None:
        self.count = count
        self.classifier: MLPClassifier | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule
        shape, model = tuple(data.train[0][0].shape), pl_module.hparams
        if shape != (model.channels, model.size, model.size):
            raise MisconfigurationException(
                f"images have the shape {shape}: set model.channels to {shape[0]} "
                f"and model.size to {shape[1]}."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Sample in this hook: averaged weights (EMA), if any, are in place here."""
        self.samples = pl_module.sample(self.count).cpu()
        self.log("val_score", self.score(trainer, self.samples), prog_bar=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val_score" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        ours = float(trainer.callback_metrics["val_score"])
        real, _ = first_images(data.val)
        noise = self.score(trainer, torch.rand_like(self.samples))
        trainer.print(
            f"val_score {ours:.2f}, real images {self.score(trainer, real):.2f}, "
            f"noise {noise:.2f}"
        )
        save_picture(trainer, grid(self.samples), "samples")

    def score(self, trainer: Trainer, images: Tensor) -> float:
        """exp of the mean KL divergence of class probabilities from their mean."""
        if self.classifier is None:
            data: Any = trainer.datamodule
            real, labels = first_images(data.train)
            self.classifier = MLPClassifier(64, max_iter=500, tol=1e-3, random_state=0)
            self.classifier.fit(real.flatten(1), labels)
        probs = self.classifier.predict_proba(images.flatten(1)) + 1e-9
        divergence = probs * (np.log(probs) - np.log(probs.mean(axis=0)))
        return float(np.exp(divergence.sum(axis=1).mean()))


def first_images(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The first 10,000 images and labels."""
    images, labels = next(iter(DataLoader(dataset, batch_size=10_000)))
    return images, labels


def grid(images: Tensor, side: int = 8) -> "Figure":
    from matplotlib.figure import Figure  # imported here, since that takes long

    figure = Figure(figsize=(5, 5), layout="constrained")
    places = figure.subplots(side, side).flat
    for axes, image in zip(places, images, strict=False):
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray")
        axes.set_axis_off()
    return figure
