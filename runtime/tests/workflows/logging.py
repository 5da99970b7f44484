"""Log metrics to several loggers."""

from scaffold_runtime import Trainer
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.loggers import CSVLogger, TensorBoardLogger


class M(BoringModel):

    def training_step(self, batch, batch_idx):
        self.log("performance", {"a": 1.0}["a"], prog_bar=True)
        self.log_dict(
            {"loss_x": 1.0, "acc": 0.3}, on_step=True, on_epoch=True, prog_bar=True, logger=True
        )
        tb = self.logger.experiment
        tb.add_scalar("custom", 0.3, self.global_step)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        value = batch_idx + 1
        self.log("average_value", value)
        self.log("my_loss", 1.0, batch_size=3, reduce_fx="mean")


t = Trainer(
    accelerator="cpu",
    max_epochs=1,
    log_every_n_steps=10,
    logger=[
        TensorBoardLogger(save_dir="logs/", name="my", version="v1"),
        CSVLogger("logs", name="csv"),
    ],
)
t.fit(M())
t.logger.log_hyperparams({"a": 1})
t.loggers[1].log_metrics({"x": 1.0}, step=5)
