"""Accumulate, clip, average weights, schedule."""

import scaffold_runtime as L
from scaffold_runtime.callbacks import (
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    StochasticWeightAveraging,
    Timer,
)
from scaffold_runtime.demos.boring_classes import BoringModel

L.Trainer(accelerator="cpu", max_epochs=1, accumulate_grad_batches=4, gradient_clip_val=0.5).fit(
    BoringModel()
)
L.Trainer(
    accelerator="cpu", max_epochs=1, gradient_clip_val=0.5, gradient_clip_algorithm="value"
).fit(BoringModel())
L.Trainer(
    accelerator="cpu",
    max_epochs=6,
    limit_train_batches=3,
    callbacks=[StochasticWeightAveraging(swa_lrs=0.01), LearningRateMonitor("step")],
).fit(BoringModel())
L.Trainer(
    accelerator="cpu",
    max_epochs=2,
    limit_train_batches=5,
    callbacks=[
        GradientAccumulationScheduler(scheduling={0: 2, 1: 3}),
        Timer(duration="00:12:00:00"),
        LambdaCallback(setup=lambda *args, **k: print("setup")),
        DeviceStatsMonitor(),
    ],
).fit(BoringModel())
