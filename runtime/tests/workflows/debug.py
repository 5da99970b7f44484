"""Debug a model."""

import scaffold_runtime as L
from scaffold_runtime.callbacks import ModelSummary
from scaffold_runtime.demos.boring_classes import BoringModel
from scaffold_runtime.utilities.model_summary import ModelSummary as Summary

for k in (
    {"fast_dev_run": True},
    {"fast_dev_run": 7},
    {"limit_train_batches": 0.1, "limit_val_batches": 0.05},
    {"num_sanity_val_steps": 2},
    {"overfit_batches": 0.05},
    {"overfit_batches": 10},
    {"detect_anomaly": True},
    {"callbacks": [ModelSummary(max_depth=-1)]},
    {"enable_model_summary": False},
):
    L.Trainer(accelerator="cpu", max_epochs=1, **k).fit(BoringModel())
model = BoringModel()
summary = Summary(model, max_depth=-1)
print(summary)
