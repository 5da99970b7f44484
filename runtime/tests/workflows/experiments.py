"""Manage experiments: several loggers, their own objects, and a logger of one's own."""

import torch

import scaffold_runtime as L
from scaffold_runtime import loggers as pl_loggers
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.loggers.logger import Logger, rank_zero_experiment
from scaffold_runtime.utilities import rank_zero_only


class MyLogger(Logger):

    def __init__(self):
        super().__init__()
        self.rows, self.status = [], None

    @property
    def name(self):
        return "MyLogger"

    @property
    def version(self):
        return "0.1"

    @property
    @rank_zero_experiment
    def experiment(self):
        return self.rows

    @rank_zero_only
    def log_hyperparams(self, params):
        self.params = params

    @rank_zero_only
    def log_metrics(self, metrics, step):
        self.experiment.append((step, metrics))

    @rank_zero_only
    def save(self):
        pass

    @rank_zero_only
    def finalize(self, status):
        self.status = status


class LitModel(BoringModel):

    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.randn(1, 32)

    def any_lightning_module_function_or_hook(self):
        for logger in self.loggers:
            if isinstance(logger, pl_loggers.TensorBoardLogger):
                logger.experiment.add_histogram("weights", self.layer.weight, self.global_step)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train_loss", loss)
        self.log_dict({"acc": 0.5, "recall": 0.25}, on_step=False, on_epoch=True)
        self.any_lightning_module_function_or_hook()
        return loss


tensorboard = pl_loggers.TensorBoardLogger(
    save_dir="logs/", log_graph=True, default_hp_metric=False
)
csv = pl_loggers.CSVLogger(save_dir="logs/", name="my_exp")
own = MyLogger()
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=1,
    limit_train_batches=4,
    limit_val_batches=2,
    log_every_n_steps=2,
    logger=[tensorboard, csv, own],
    default_root_dir="root",
)
trainer.fit(LitModel())
assert trainer.logger is tensorboard and own.status == "success" and own.params == {"width": 3}
assert [step for step, row in own.rows if "train_loss" in row] == [1, 3]
tensorboard.log_hyperparams({"lr": 0.1}, {"hp/metric": 0.5})
L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=2, logger=False).fit(LitModel())
