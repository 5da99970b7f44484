"""Fast checks: the pieces fit together, and the shapes are right."""

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException
from torch.nn.functional import normalize

from self_supervised_example.data import ImageDataModule
from self_supervised_example.model import SimCLR


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(SimCLR(), ImageDataModule())
    assert trainer.global_step == 1


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_one_row_of_features_each(channels: int, size: int) -> None:
    model = SimCLR(channels)
    assert model(torch.zeros(3, channels, size, size)).shape == (3, 128)


def test_matching_views_have_a_lower_loss() -> None:
    model, points = SimCLR(), normalize(torch.randn(32, 64), dim=1)
    others = normalize(torch.randn(32, 64), dim=1)
    assert model.contrast(points, points) < model.contrast(points, others) / 2


def test_missing_files_are_one_clear_error() -> None:
    with pytest.raises(MisconfigurationException, match="there is no nowhere"):
        ImageDataModule("mnist", path="nowhere").prepare_data()
