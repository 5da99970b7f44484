"""Deploy: predict with the Trainer, with plain torch, from a checkpoint's weights alone, as ONNX."""

import torch

import scaffold_runtime as L
from scaffold_runtime.callbacks import BasePredictionWriter


class Encoder(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.l1 = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))

    def forward(self, x):
        return self.l1(x)


class MyModel(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.dropout = torch.nn.Dropout()

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean()

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.dropout.train()
        return torch.vstack([self.dropout(self(batch)).unsqueeze(0) for _ in range(5)]).mean(dim=0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


loader = torch.utils.data.DataLoader(torch.randn(10, 8), batch_size=4)
trainer = L.Trainer(accelerator="cpu", max_epochs=1)
trainer.fit(MyModel(), loader)
trainer.save_checkpoint("best_model.ckpt")

model = MyModel.load_from_checkpoint("best_model.ckpt")
predictions = L.Trainer(accelerator="cpu").predict(model, loader)
assert [len(p) for p in predictions] == [4, 4, 2]


class CustomWriter(BasePredictionWriter):

    def __init__(self, output_dir, write_interval):
        super().__init__(write_interval)
        self.output_dir = output_dir

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        rank = trainer.global_rank
        torch.save(predictions, f"{self.output_dir}/predictions_{rank}.pt")
        torch.save(batch_indices, f"{self.output_dir}/batch_indices_{rank}.pt")


pred_writer = CustomWriter(output_dir=".", write_interval="epoch")
trainer = L.Trainer(accelerator="cpu", callbacks=[pred_writer])
trainer.predict(model, loader, return_predictions=False)
assert torch.load("batch_indices_0.pt") == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]]

model = MyModel.load_from_checkpoint("best_model.ckpt")
model.eval()
x = torch.randn(1, 8)
with torch.no_grad():
    y_hat = model(x)

checkpoint = torch.load("best_model.ckpt")
encoder_weights = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("encoder.")}
autoencoder = Encoder()
autoencoder.load_state_dict({k.removeprefix("encoder."): v for k, v in encoder_weights.items()})
assert torch.equal(autoencoder(x), y_hat)

model.to_onnx("model.onnx", torch.randn(1, 8), export_params=True)
