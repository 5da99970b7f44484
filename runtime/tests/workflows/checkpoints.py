"""Save, choose, resume and load checkpoints."""

import torch

import scaffold_runtime as L
from scaffold_runtime.callbacks import EarlyStopping, ModelCheckpoint


class LitModel(L.LightningModule):

    def __init__(self, encoder_dim=32, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(encoder_dim, 2)

    def training_step(self, b, i):
        loss = self.layer(b).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, b, i):
        self.log("val_loss", self.layer(b).square().mean())
        self.log("val/acc", 0.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(16, 32), 4)

    val_dataloader = train_dataloader

    def on_save_checkpoint(self, checkpoint):
        checkpoint["something_cool_i_want_to_save"] = {"a": 1}

    def on_load_checkpoint(self, checkpoint):
        self.cool = checkpoint["something_cool_i_want_to_save"]


checkpoint_callback = ModelCheckpoint(
    dirpath="my/path/",
    filename="sample-mnist-{epoch:02d}-{val_loss:.2f}",
    save_top_k=3,
    monitor="val_loss",
    mode="min",
)
cb2 = ModelCheckpoint(
    dirpath="my/other",
    filename="{epoch}-{val/acc:.1f}",
    every_n_epochs=1,
    save_top_k=-1,
    save_last=True,
)
cb3 = ModelCheckpoint(dirpath="my/steps", every_n_train_steps=3, save_top_k=-1)
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=3,
    callbacks=[
        checkpoint_callback,
        cb2,
        cb3,
        EarlyStopping(monitor="val_loss", mode="min", patience=3),
    ],
    default_root_dir="some/path/",
)
m = LitModel()
trainer.fit(m)
model = LitModel.load_from_checkpoint(checkpoint_callback.best_model_path)
assert model.hparams.lr == 0.1 and model.cool == {"a": 1}
model = LitModel.load_from_checkpoint(checkpoint_callback.best_model_path, lr=0.5)
assert model.hparams.lr == 0.5
t2 = L.Trainer(accelerator="cpu", max_epochs=5)
t2.fit(LitModel(), ckpt_path=cb2.last_model_path)
t2.save_checkpoint("example.ckpt", weights_only=True)
new = LitModel.load_from_checkpoint(
    checkpoint_path="example.ckpt",
    map_location={"cuda:1": "cuda:0"} if False else None,
    strict=False,
)
c = torch.load("example.ckpt", weights_only=True)
print(c.keys())
