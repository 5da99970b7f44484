"""Keep data in a data module."""

import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

import scaffold_runtime as L


class MNISTDataModule(L.LightningDataModule):

    def __init__(self, data_dir: str = "./", batch_size: int = 4):
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.save_hyperparameters()

    def prepare_data(self):
        self.full = TensorDataset(torch.randn(40, 4), torch.zeros(40, dtype=torch.long))

    def setup(self, stage: str):
        if stage == "fit":
            self.mnist_train, self.mnist_val = random_split(
                self.full, [30, 10], generator=torch.Generator().manual_seed(42)
            )
        if stage == "test":
            self.mnist_test = self.full
        if stage == "predict":
            self.mnist_predict = self.full

    def train_dataloader(self):
        return DataLoader(self.mnist_train, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.mnist_val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.mnist_test, batch_size=self.batch_size)

    def predict_dataloader(self):
        return DataLoader(self.mnist_predict, batch_size=self.batch_size)

    def state_dict(self):
        return {"current_train_batch_index": 3}

    def load_state_dict(self, state_dict):
        self.loaded = state_dict


class Lit(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 3)

    def forward(self, b):
        return self.l(b[0])

    def training_step(self, b, i):
        return torch.nn.functional.cross_entropy(self(b), b[1])

    def validation_step(self, b, i):
        self.log("val_loss", torch.nn.functional.cross_entropy(self(b), b[1]))

    def test_step(self, b, i):
        self.log("test_loss", 1.0)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


dm = MNISTDataModule()
model = Lit()
trainer = L.Trainer(accelerator="cpu", max_epochs=1)
trainer.fit(model, datamodule=dm)
trainer.test(datamodule=dm)
trainer.validate(datamodule=dm)
p = trainer.predict(model, datamodule=dm)
t2 = L.Trainer(accelerator="cpu", max_epochs=2)
dm2 = MNISTDataModule()
t2.fit(Lit(), dm2, ckpt_path=trainer.checkpoint_callback.best_model_path)
