"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from image_segmentation_example.data import MaskDataModule
from image_segmentation_example.model import Segmenter, dice_score


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(Segmenter(), MaskDataModule())
    assert trainer.global_step == 1


def test_one_score_per_pixel() -> None:
    assert Segmenter()(torch.zeros(2, 1, 30, 33)).shape == (2, 1, 30, 33)


def test_dice() -> None:
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]])
    assert dice_score(logits, (logits > 0).float()).item() == 1
    assert dice_score(logits, (logits < 0).float()).item() == pytest.approx(1 / 5)


def test_the_same_seed_draws_the_same() -> None:
    first, again = MaskDataModule(), MaskDataModule()
    first.setup("fit")
    again.setup("fit")
    assert torch.equal(first.train[7][0], again.train[7][0])


def test_a_missing_mask_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="there are no files"):
        MaskDataModule(str(tmp_path)).prepare_data()
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (9, 9)).save(tmp_path / name / "a.png")
    Image.new("L", (9, 9)).save(tmp_path / "images" / "b.png")
    with pytest.raises(MisconfigurationException, match="b is not in both"):
        MaskDataModule(str(tmp_path)).prepare_data()
