"""Train on several loaders."""

import torch
from torch.utils.data import DataLoader

import scaffold_runtime as L
from scaffold_runtime.utilities import CombinedLoader


class M(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.l(batch["mnist"]).mean() + self.l(batch["cifar"]).mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("v", self.l(batch).mean())

    def train_dataloader(self):
        return {
            "mnist": DataLoader(torch.randn(8, 4), 2),
            "cifar": DataLoader(torch.randn(6, 4), 2),
        }

    def val_dataloader(self):
        return CombinedLoader(
            [DataLoader(torch.randn(8, 4), 2), DataLoader(torch.randn(6, 4), 2)], "sequential"
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


t = L.Trainer(accelerator="cpu", max_epochs=1)
m = M()
t.fit(m)
cl = CombinedLoader({"a": DataLoader(range(6), 4), "b": DataLoader(range(15), 5)}, "max_size_cycle")
out = [(b["a"].tolist(), b["b"].tolist(), i, j) for b, i, j in cl]


class V(M):

    def validation_step(self, batch, batch_idx):
        self.log("v", self.l(batch[0]).mean())

    def val_dataloader(self):
        return CombinedLoader(
            [DataLoader(torch.randn(8, 4), 2), DataLoader(torch.randn(6, 4), 2)], "max_size_cycle"
        )


t2 = L.Trainer(accelerator="cpu", max_epochs=1)
t2.fit(V())
