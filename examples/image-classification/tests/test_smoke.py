"""Fast checks: the pieces fit together, and the shapes are right."""

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from image_classification_example.data import ImageDataModule
from image_classification_example.model import ImageClassifier


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(ImageClassifier(), ImageDataModule())
    assert trainer.global_step == 1


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_one_score_per_class(channels: int, size: int) -> None:
    model = ImageClassifier(classes=5, channels=channels)
    assert model(torch.zeros(4, channels, size, size)).shape == (4, 5)


@pytest.mark.parametrize("source", ["mnist", "cifar10", "folder", "digit"])
def test_missing_files_are_one_clear_error(source: str) -> None:
    with pytest.raises(
        MisconfigurationException, match="data.source|there (is|are) no"
    ):
        ImageDataModule(source, path="nowhere").prepare_data()
