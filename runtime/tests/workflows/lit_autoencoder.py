"""Train the model of the first page, and use its encoder."""

import torch
from torch import nn, optim, utils

import scaffold_runtime as L

encoder = nn.Sequential(nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 3))
decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 28 * 28))


class LitAutoEncoder(L.LightningModule):

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = nn.functional.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=0.001)


autoencoder = LitAutoEncoder(encoder, decoder)
train_loader = utils.data.DataLoader(
    utils.data.TensorDataset(torch.rand(64, 1, 28, 28), torch.zeros(64)), batch_size=8
)
trainer = L.Trainer(limit_train_batches=100, max_epochs=1, accelerator="cpu")
trainer.fit(model=autoencoder, train_dataloaders=train_loader)
checkpoint = trainer.checkpoint_callback.best_model_path
autoencoder = LitAutoEncoder.load_from_checkpoint(checkpoint, encoder=encoder, decoder=decoder)
encoder = autoencoder.encoder
encoder.eval()
embeddings = encoder(torch.rand(4, 28 * 28, device=autoencoder.device))
trainer = L.Trainer(
    devices=1, accelerator="cpu", precision="bf16-mixed", max_epochs=1, enable_progress_bar=False
)
trainer.fit(autoencoder, train_loader)
ckpt = torch.load(checkpoint, weights_only=True)
encoder_weights = {k: v for k, v in ckpt["state_dict"].items() if k.startswith("encoder.")}
assert len(encoder_weights) == 4
