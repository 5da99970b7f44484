"""Organize existing PyTorch: the loop goes, hooks stay, the module stays a module."""

import torch

import scaffold_runtime as L


class Plain(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.layer_1 = torch.nn.Linear(28 * 28, 16)
        self.layer_2 = torch.nn.Linear(16, 10)

    def forward(self, x):
        x = torch.nn.functional.relu(self.layer_1(x.view(x.size(0), -1)))
        return self.layer_2(x)


class LitModel(L.LightningModule):

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("sigma", torch.eye(3))

    def training_step(self, batch, batch_idx):
        x, y = batch
        noise = torch.randn_like(x) + torch.zeros(1, device=self.device).type_as(x)
        loss = torch.nn.functional.cross_entropy(self.model(x + 0 * noise), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        val_loss = torch.nn.functional.cross_entropy(self.model(x), y)
        self.log("val_loss", val_loss)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", torch.nn.functional.cross_entropy(self.model(x), y))

    def predict_step(self, batch, batch_idx):
        x, _ = batch
        return self.model(x)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss", "frequency": 1},
        }


data = torch.utils.data.TensorDataset(torch.randn(16, 1, 28, 28), torch.randint(0, 10, (16,)))
loader = torch.utils.data.DataLoader(data, batch_size=4)
plain = Plain()
model = LitModel(plain)
trainer = L.Trainer(accelerator="cpu", max_epochs=2, check_val_every_n_epoch=1)
trainer.fit(model, loader, loader)
assert trainer.validate(model, dataloaders=loader)[0].keys() == {"val_loss"}
assert trainer.test(dataloaders=loader)[0].keys() == {"test_loss"}
predictions = trainer.predict(model, loader)
assert torch.equal(predictions[0], plain.eval()(data.tensors[0][:4]))
