"""A run that is interrupted and resumed ends as if it had never stopped."""

from pathlib import Path

from scaffold_runtime.testing import check_resume

from object_detection_example.data import SceneDataModule
from object_detection_example.model import Detector


def test_an_interrupted_run_resumes_exactly(tmp_path: Path) -> None:
    check_resume(
        lambda: (Detector(), SceneDataModule()),
        tmp_path,
        max_epochs=2,
        limit_train_batches=6,
        limit_val_batches=2,
        accelerator="cpu",
    )
