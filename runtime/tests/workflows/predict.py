"""Predict, and write predictions."""

import os

import torch

import scaffold_runtime as L
from scaffold_runtime.callbacks import BasePredictionWriter


class MyModel(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.l(x)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch)


class CustomWriter(BasePredictionWriter):

    def __init__(self, output_dir, write_interval):
        super().__init__(write_interval)
        self.output_dir = output_dir

    def write_on_batch_end(
        self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
    ):
        os.makedirs(self.output_dir, exist_ok=True)
        torch.save(prediction, os.path.join(self.output_dir, f"{dataloader_idx}_{batch_idx}.pt"))

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        torch.save(
            predictions, os.path.join(self.output_dir, f"predictions_{trainer.global_rank}.pt")
        )
        torch.save(batch_indices, os.path.join(self.output_dir, "idx.pt"))
        self.idx = batch_indices


dl = torch.utils.data.DataLoader(torch.randn(8, 4), 4)
trainer = L.Trainer(accelerator="cpu")
p = trainer.predict(MyModel(), dl)
w = CustomWriter(output_dir="pred_path", write_interval="batch_and_epoch")
L.Trainer(accelerator="cpu", callbacks=[w]).predict(MyModel(), dl, return_predictions=False)
