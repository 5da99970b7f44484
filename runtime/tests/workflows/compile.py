"""Compile a module."""

import torch

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel

m = torch.compile(BoringModel(), backend="eager")
t = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=2)
t.fit(m)
t.test(m)


class C(BoringModel):

    def configure_model(self):
        self.layer = torch.compile(self.layer, backend="eager")
