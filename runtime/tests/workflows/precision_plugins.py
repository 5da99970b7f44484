"""Choose a precision."""

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.plugins import MixedPrecision

for p in (
    16,
    "bf16",
    "bf16-mixed",
    "32-true",
    "64-true",
    "bf16-true",
    32,
    "16-mixed" if False else "64",
):
    L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        precision="bf16-mixed" if p == 16 else p,
    ).fit(BoringModel())
L.Trainer(
    accelerator="cpu",
    max_epochs=1,
    plugins=[MixedPrecision("bf16-mixed", "cpu")],
    limit_train_batches=2,
).fit(BoringModel())
trainer = L.Trainer(accelerator="cpu", precision="bf16-true", max_epochs=1)
with trainer.init_module():
    m = BoringModel()
