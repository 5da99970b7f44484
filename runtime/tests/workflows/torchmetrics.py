"""Log torchmetrics."""

import torch
import torchmetrics

import scaffold_runtime as L


class M(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 3)
        self.train_acc = torchmetrics.classification.Accuracy(task="multiclass", num_classes=3)
        self.valid_acc = torchmetrics.classification.Accuracy(task="multiclass", num_classes=3)
        self.coll = torchmetrics.MetricCollection(
            {
                "p": torchmetrics.classification.Precision(task="multiclass", num_classes=3),
                "r": torchmetrics.classification.Recall(task="multiclass", num_classes=3),
            },
            prefix="val_",
        )

    def training_step(self, b, i):
        x, y = b
        p = self.l(x)
        self.train_acc(p, y)
        self.log("train_acc_step", self.train_acc)
        self.log("ta", self.train_acc, on_step=True, on_epoch=True)
        return torch.nn.functional.cross_entropy(p, y)

    def on_train_epoch_end(self):
        self.log("train_acc_epoch", self.train_acc)

    def validation_step(self, b, i):
        x, y = b
        p = self.l(x)
        self.valid_acc(p, y)
        self.log("valid_acc", self.valid_acc, on_step=True, on_epoch=True)
        self.coll.update(p, y)
        self.log_dict(self.coll)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


torch.manual_seed(0)
dl = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.randn(40, 4), torch.randint(0, 3, (40,))), 4
)
t = L.Trainer(accelerator="cpu", max_epochs=2, log_every_n_steps=1)
t.fit(M(), dl, dl)
