"""Train on devices: how they are asked for, here where there may be none."""

import contextlib

import torch

import scaffold_runtime as L
from scaffold_runtime.accelerators import CPUAccelerator, CUDAAccelerator
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.strategies import DDPStrategy, FSDPStrategy

trainer = L.Trainer(accelerator="auto", devices="auto", strategy="auto", max_steps=2)
trainer.fit(BoringModel())
assert trainer.num_devices >= 1 and trainer.device_ids

for arguments in ({"accelerator": "gpu", "devices": 1}, {"accelerator": "cuda", "devices": "0,"}):
    if CUDAAccelerator.is_available():
        L.Trainer(max_steps=2, **arguments).fit(BoringModel())
    else:
        with contextlib.suppress(MisconfigurationException):
            L.Trainer(**arguments)
            raise AssertionError("there is no such device")

for devices in (1, "1", [0]):
    L.Trainer(accelerator=CPUAccelerator(), devices=devices, max_steps=2).fit(BoringModel())
assert L.Trainer(accelerator="cpu", devices=2, strategy="ddp_notebook").world_size == 2
for strategy in (
    "ddp",
    "ddp_spawn",
    "ddp_find_unused_parameters_true",
    "fsdp",
    DDPStrategy(static_graph=True, gradient_as_bucket_view=True),
    FSDPStrategy(activation_checkpointing_policy={torch.nn.Linear}),
):
    assert L.Trainer(accelerator="cpu", devices=2, num_nodes=2, strategy=strategy).world_size == 4
