"""A run that is interrupted and resumed ends as if it had never stopped."""

from pathlib import Path

from scaffold_runtime.testing import check_resume

from time_series_example.data import SeriesDataModule
from time_series_example.model import Forecaster


def test_an_interrupted_run_resumes_exactly(tmp_path: Path) -> None:
    check_resume(
        lambda: (Forecaster(), SeriesDataModule()),
        tmp_path,
        max_epochs=2,
        limit_train_batches=6,
        limit_val_batches=2,
        accelerator="cpu",
    )
