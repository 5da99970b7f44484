"""Find a learning rate and a batch size."""

import torch

import scaffold_runtime as L
from scaffold_runtime.tuner import Tuner


class LitModel(L.LightningModule):

    def __init__(self, learning_rate=0.001, batch_size=2):
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.layer = torch.nn.Linear(32, 2)

    def training_step(self, b, i):
        return self.layer(b).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(400, 32), batch_size=self.batch_size)


trainer = L.Trainer(accelerator="cpu", max_epochs=1)
tuner = Tuner(trainer)
model = LitModel()
lr_finder = tuner.lr_find(model)
new_lr = lr_finder.suggestion()
model.hparams.lr = new_lr
tuner.scale_batch_size(model, mode="power", max_trials=3)
trainer.fit(model)
