"""Linear probe: a linear classifier on the features."""

from typing import Any

import torch
from scaffold_runtime import Callback, LightningModule, Trainer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class LinearProbe(Callback):
    """Logs `val_probe_acc`: validation accuracy of a probe, fitted to few labels."""

    def __init__(self, labels_per_class: int = 10) -> None:
        self.labels_per_class = labels_per_class

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        accuracy = self.accuracy(trainer.datamodule, pl_module)
        self.log("val_probe_acc", accuracy, prog_bar=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "val_probe_acc" not in trainer.callback_metrics:  # validation never ran
            return
        pixels = self.accuracy(trainer.datamodule, nn.Flatten())
        features = float(trainer.callback_metrics["val_probe_acc"])
        trainer.print(f"val_probe_acc {features:.3f}, on raw pixels {pixels:.3f}")

    def accuracy(self, data: Any, network: nn.Module) -> float:
        features, labels = features_of(data.train, network)
        rows = [
            (labels == label).nonzero()[: self.labels_per_class, 0]
            for label in labels.unique()
        ]
        few = torch.cat(rows)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(features[few], labels[few])
        return float(probe.score(*features_of(data.val, network)))


@torch.no_grad()
def features_of(dataset: Dataset, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Features and labels of all images."""
    device = next((weight.device for weight in network.parameters()), None)
    training = network.training
    network.eval()
    batches = [(network(x.to(device)).cpu(), y) for x, y in DataLoader(dataset, 512)]
    network.train(training)
    features, labels = zip(*batches, strict=True)
    return torch.cat(features), torch.cat(labels)
