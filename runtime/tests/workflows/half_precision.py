"""Save memory: every precision that a CPU has, as a name, a number or a plugin."""

import torch

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.plugins import DoublePrecision, HalfPrecision

for precision, dtype in {
    "32-true": torch.float32,
    32: torch.float32,
    "bf16-mixed": torch.float32,
    "bf16": torch.float32,
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
    64: torch.float64,
}.items():
    model = BoringModel()
    L.Trainer(accelerator="cpu", max_steps=2, precision=precision).fit(model)
    assert model.dtype == dtype, precision

for plugin, dtype in (
    (HalfPrecision("bf16-true"), torch.bfloat16),
    (DoublePrecision(), torch.float64),
):
    model = BoringModel()
    L.Trainer(accelerator="cpu", max_steps=2, plugins=[plugin]).fit(model)
    assert model.dtype == dtype

trainer = L.Trainer(accelerator="cpu", max_steps=2, precision="bf16-true")
with trainer.init_module():
    model = BoringModel()
assert model.dtype == torch.bfloat16
trainer.fit(model)
