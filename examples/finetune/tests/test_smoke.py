"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from finetune_example.data import DigitsDataModule
from finetune_example.model import FineTuned


@pytest.mark.parametrize("rank", [0, 2])
def test_one_batch_of_everything(tmp_path: Path, rank: int) -> None:
    pretrained = str(tmp_path / "backbone.pt")
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    model = FineTuned(pretrained=pretrained, rank=rank)
    trainer.fit(model, DigitsDataModule(pretrained=pretrained))
    assert trainer.global_step == 1


def test_adapters_change_nothing_at_first_and_are_small() -> None:
    torch.manual_seed(0)
    plain = FineTuned()
    torch.manual_seed(0)
    adapted = FineTuned(rank=2)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(plain(images), adapted(images))
    trained = sum(w.numel() for w in adapted.parameters() if w.requires_grad)
    assert trained < sum(weight.numel() for weight in plain.parameters()) / 10


def test_few_training_images_and_no_overlap() -> None:
    data = DigitsDataModule(shots=3)
    data.setup("fit")
    assert len(data.train) == 15
    assert len(data.train) + len(data.val) + len(data.test) == 896


def test_an_unknown_backbone_is_one_clear_error() -> None:
    with pytest.raises(MisconfigurationException, match="model.backbone"):
        FineTuned(backbone="resnet")
