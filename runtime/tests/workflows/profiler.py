"""Find bottlenecks."""

import scaffold_runtime as L
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

L.Trainer(
    accelerator="cpu", max_epochs=1, limit_train_batches=2, limit_val_batches=1, profiler="simple"
).fit(BoringModel())
L.Trainer(
    accelerator="cpu",
    max_epochs=1,
    limit_train_batches=2,
    limit_val_batches=1,
    profiler=AdvancedProfiler(dirpath=".", filename="perf_logs"),
).fit(BoringModel())
L.Trainer(
    accelerator="cpu",
    max_epochs=1,
    limit_train_batches=2,
    limit_val_batches=1,
    profiler=PyTorchProfiler(),
).fit(BoringModel())


class M(BoringModel):

    def __init__(self, profiler=None):
        super().__init__()
        self.profiler = profiler

    def training_step(self, b, i):
        with self.profiler.profile("my_custom_action"):
            return super().training_step(b, i)


profiler = SimpleProfiler()
L.Trainer(
    accelerator="cpu", profiler=profiler, max_epochs=1, limit_train_batches=2, limit_val_batches=0
).fit(M(profiler))
