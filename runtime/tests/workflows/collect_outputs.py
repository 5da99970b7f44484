"""Collect outputs of an epoch."""

import torch

import scaffold_runtime as L


class LitModel(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 1)
        self.training_step_outputs = []

    def training_step(self, batch, batch_idx):
        loss = self.l(batch).square().mean()
        self.training_step_outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.log("training_epoch_average", torch.stack(self.training_step_outputs).mean())
        self.training_step_outputs.clear()

    def configure_optimizers(self):
        o = torch.optim.SGD(self.parameters(), 0.1)
        return {
            "optimizer": o,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o),
                "monitor": "training_epoch_average",
                "frequency": 1,
            },
        }


t = L.Trainer(accelerator="cpu", max_epochs=3)
t.fit(LitModel(), torch.utils.data.DataLoader(torch.randn(8, 4), 2))
