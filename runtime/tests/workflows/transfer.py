"""Finetune a pretrained part."""

import torch

import scaffold_runtime as L
from scaffold_runtime.callbacks import BackboneFinetuning, BaseFinetuning


class AutoEncoder(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(4, 4)


class CIFAR10Classifier(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.feature_extractor = AutoEncoder()
        self.feature_extractor.freeze()
        self.classifier = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.classifier(self.feature_extractor.encoder(x))

    def training_step(self, b, i):
        return self(b).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


dl = torch.utils.data.DataLoader(torch.randn(16, 4), 4)
L.Trainer(accelerator="cpu", max_epochs=1).fit(CIFAR10Classifier(), dl)


class BB(L.LightningModule):

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 2)

    def training_step(self, b, i):
        return self.head(self.backbone(b)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


L.Trainer(
    accelerator="cpu",
    max_epochs=4,
    callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=2, lambda_func=lambda e: 1.5)],
).fit(BB(), dl)


class FeatureExtractorFreezeUnfreeze(BaseFinetuning):

    def __init__(self, unfreeze_at_epoch=1):
        super().__init__()
        self._unfreeze_at_epoch = unfreeze_at_epoch

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, current_epoch, optimizer):
        if current_epoch == self._unfreeze_at_epoch:
            self.unfreeze_and_add_param_group(
                modules=pl_module.backbone, optimizer=optimizer, train_bn=True
            )


L.Trainer(accelerator="cpu", max_epochs=3, callbacks=[FeatureExtractorFreezeUnfreeze()]).fit(
    BB(), dl
)
