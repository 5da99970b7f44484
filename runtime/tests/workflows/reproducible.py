"""Train reproducibly."""

from scaffold_runtime import Trainer, seed_everything
from scaffold_runtime.demos.boring_classes import BoringModel

seed_everything(42, workers=True)
Trainer(accelerator="cpu", deterministic=True, max_epochs=1).fit(BoringModel())
