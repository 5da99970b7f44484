"""A run that is interrupted and resumed ends as if it had never stopped."""

from pathlib import Path

from scaffold_runtime.testing import check_resume

from finetune_example.data import DigitsDataModule
from finetune_example.model import FineTuned
from finetune_example.unfreeze import Unfreeze


def test_an_interrupted_run_resumes_exactly(tmp_path: Path) -> None:
    """Also after the backbone was unfrozen."""
    pretrained = str(tmp_path / "backbone.pt")
    check_resume(
        lambda: (
            FineTuned(pretrained=pretrained),
            DigitsDataModule(pretrained=pretrained),
        ),
        tmp_path,
        callbacks=lambda: [Unfreeze(at_epoch=1)],
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=2,
        accelerator="cpu",
    )
