"""A baseline: gradient boosting on the same rows."""

from typing import Any

from scaffold_runtime import Callback, LightningModule, Trainer
from sklearn import ensemble
from torch.utils.data import TensorDataset


class GradientBoosting(Callback):
    """Prints the scores of the model and the baseline: R2 or accuracy."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer, "test")

    def compare(self, trainer: Trainer, stage: str) -> None:
        if f"{stage}_score" not in trainer.callback_metrics:  # validation never ran
            return
        data: Any = trainer.datamodule
        score = float(trainer.callback_metrics[f"{stage}_score"])
        boosting = boosting_score(data.train, getattr(data, stage))
        trainer.print(f"{stage}_score {score:.3f}, gradient boosting {boosting:.3f}")


def boosting_score(train: TensorDataset, held_out: TensorDataset) -> float:
    inputs, targets = (tensor.numpy() for tensor in train.tensors)
    if targets.dtype.kind == "i":
        boosting = ensemble.GradientBoostingClassifier(random_state=0)
    else:
        boosting = ensemble.GradientBoostingRegressor(random_state=0)
    boosting.fit(inputs, targets)
    inputs, targets = (tensor.numpy() for tensor in held_out.tensors)
    predicted = boosting.predict(inputs)
    if targets.dtype.kind == "i":
        return float((predicted == targets).mean())
    return 1 - float(((predicted - targets) ** 2).mean())  # R2 for unit variance
