"""Configure hyperparameters: argparse, save_hyperparameters, and what a checkpoint remembers."""

from argparse import ArgumentParser

import torch

import scaffold_runtime as L

parser = ArgumentParser()
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--layer_1_dim", type=int, default=8)
parser.add_argument("--learning_rate", type=float, default=0.02)
args = parser.parse_args(["--layer_1_dim", "6"])


class LitMNIST(L.LightningModule):

    def __init__(self, layer_1_dim=128, learning_rate=1e-2, loss_fx=None, **kwargs):
        super().__init__()
        self.save_hyperparameters("layer_1_dim", "learning_rate")
        self.save_hyperparameters(ignore=["loss_fx"])
        self.layer_1 = torch.nn.Linear(28, self.hparams.layer_1_dim)
        self.loss_fx = loss_fx

    def training_step(self, batch, batch_idx):
        return self.loss_fx(self.layer_1(batch), torch.zeros(len(batch), self.hparams.layer_1_dim))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(8, 28), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


dict_args = vars(args)
model = LitMNIST(loss_fx=torch.nn.functional.mse_loss, **dict_args)
trainer = L.Trainer(accelerator="cpu", devices=args.devices, max_epochs=1)
trainer.fit(model)
trainer.save_checkpoint("example.ckpt")
model = LitMNIST.load_from_checkpoint("example.ckpt", loss_fx=torch.nn.functional.mse_loss)
assert model.hparams.layer_1_dim == 6 and model.hparams["devices"] == 1
model = LitMNIST.load_from_checkpoint("example.ckpt", learning_rate=0.5)
assert model.hparams.learning_rate == 0.5


class FromNamespace(LitMNIST):

    def __init__(self, conf, loss_fx=torch.nn.functional.mse_loss):
        super(LitMNIST, self).__init__()
        self.save_hyperparameters(conf)
        self.layer_1 = torch.nn.Linear(28, self.hparams.layer_1_dim)
        self.loss_fx = loss_fx


trainer = L.Trainer(accelerator="cpu", max_epochs=1)
trainer.fit(FromNamespace(args))
trainer.save_checkpoint("namespace.ckpt")
model = FromNamespace.load_from_checkpoint("namespace.ckpt", conf=args)
assert model.hparams.learning_rate == 0.02 and model.hparams_initial == model.hparams
