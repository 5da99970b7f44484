"""Split data, validate and test."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import scaffold_runtime as L


class Lit(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.l(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.l(x), y))

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", F.cross_entropy(self.l(x), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


ds = TensorDataset(torch.randn(100, 4), torch.randint(0, 3, (100,)))
seed = torch.Generator().manual_seed(42)
train_set, valid_set = random_split(ds, [80, 20], generator=seed)
model = Lit()
trainer = L.Trainer(accelerator="cpu", max_epochs=2)
trainer.fit(model, DataLoader(train_set, 8), DataLoader(valid_set, 8))
r = trainer.test(model, dataloaders=DataLoader(ds, 8))
r2 = trainer.test(ckpt_path="best", dataloaders=DataLoader(ds, 8))
r3 = trainer.validate(model, DataLoader(ds, 8), verbose=False)
