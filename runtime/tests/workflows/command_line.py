"""Eliminate config boilerplate: LightningCLI, as its pages from basic to expert use it."""

import contextlib
from pathlib import Path

import torch

from scaffold_runtime import LightningModule
from scaffold_runtime.callbacks import EarlyStopping
from scaffold_runtime.cli import (
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerCallable,
    OptimizerCallable,
    SaveConfigCallback,
)
from scaffold_runtime.demos.boring_classes import BoringDataModule, BoringModel, DemoModel
from scaffold_runtime.loggers import Logger

QUICK = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
         "--trainer.limit_val_batches=2", "--trainer.limit_test_batches=2"]  # fmt: skip


def cli_main(*args, **kwargs):
    words = [*args, *(QUICK if kwargs.get("run", True) else ())]
    return LightningCLI(kwargs.pop("model", DemoModel), BoringDataModule, args=words, **kwargs)


# The basic page: subcommands, options, --print_config, a file.
cli = cli_main("fit", "--model.learning_rate=0.1", "--model.out_dim=5")
assert cli.model.learning_rate == 0.1 and Path(cli.trainer.log_dir, "config.yaml").exists()
assert list(cli_main("test", model=BoringModel).returned) == [{}]
with contextlib.suppress(SystemExit):
    cli_main("fit", "--print_config")
    raise AssertionError("it ends after printing")
saved = str(Path(cli.trainer.log_dir, "config.yaml"))
again = cli_main("fit", "--config", saved, "--model.out_dim=6")
assert (again.model.learning_rate, again.model.l1.out_features) == (0.1, 6)


# A model, an optimizer and a scheduler by name.
any_model = LightningCLI(
    DemoModel, BoringDataModule, subclass_mode_model=True,
    args=["fit", "--model=scaffold_runtime.demos.boring_classes.DemoModel", "--model.out_dim=4",
          "--optimizer=Adam", "--optimizer.lr=0.01", "--lr_scheduler=CosineAnnealingLR",
          "--lr_scheduler.T_max=10", *QUICK],
)  # fmt: skip
assert isinstance(any_model.trainer.optimizers[0], torch.optim.Adam)


# Arguments of one's own, links, defaults, callbacks that can be configured.
class MyLightningCLI(LightningCLI):

    def add_arguments_to_parser(self, parser: LightningArgumentParser):
        parser.add_argument("--notification_email", default="will@example.com")
        parser.add_lightning_class_args(EarlyStopping, "my_early_stopping")
        parser.set_defaults(
            {"my_early_stopping.monitor": "train_loss", "my_early_stopping.patience": 5}
        )
        parser.set_defaults({"my_early_stopping.strict": False})
        parser.add_argument("--width", type=int, default=3)
        parser.link_arguments("width", "model.out_dim")
        parser.add_optimizer_args(torch.optim.SGD)

    def before_fit(self):
        self.seen = self.config["fit"]["notification_email"]

    def after_fit(self):
        self.after = self.trainer.global_step


class Logged(DemoModel):

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss


own = MyLightningCLI(Logged, BoringDataModule, args=["fit", "--optimizer.lr=0.3", *QUICK],
                     trainer_defaults={"max_epochs": 10})  # fmt: skip
assert own.seen == "will@example.com" and own.after == 2 and own.model.l1.out_features == 3
assert own.trainer.early_stopping_callback.patience == 5
assert own.config_dump["my_early_stopping"]["patience"] == 5


# Without subcommands, then by hand.
made = cli_main("--model.out_dim=7", "--trainer.max_steps=1", run=False)
assert made.model.l1.out_features == 7 and made.trainer.global_step == 0
made.trainer.fit(made.model, datamodule=made.datamodule)
assert made.trainer.global_step == 1


# Optimizers as injected callables, and a callback that saves the configuration elsewhere.
class Injected(LightningModule):

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable = torch.optim.lr_scheduler.ConstantLR,
        layer: torch.nn.Module | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.layer = layer or torch.nn.Linear(32, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}


class LoggerSaveConfigCallback(SaveConfigCallback):

    def save_config(self, trainer, pl_module, stage):
        if isinstance(trainer.logger, Logger):
            config = self.parser.dump(self.config, skip_none=False)
            trainer.logger.log_hyperparams({"config": config})


injected = cli_main(
    "fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.05", "--model.scheduler=StepLR",
    "--model.scheduler.step_size=1", "--model.layer=torch.nn.Linear",
    "--model.layer.in_features=32", "--model.layer.out_features=1",
    model=Injected, save_config_callback=LoggerSaveConfigCallback,
)  # fmt: skip
assert isinstance(injected.trainer.optimizers[0], torch.optim.SGD)
injected.trainer.save_checkpoint("injected.ckpt")
assert torch.load("injected.ckpt")["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.05
