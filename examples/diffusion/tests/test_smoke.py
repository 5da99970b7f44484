"""Fast checks: the pieces fit together, and the shapes are right."""

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from diffusion_example.data import ImageDataModule
from diffusion_example.model import Diffusion


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(Diffusion(), ImageDataModule())
    assert trainer.global_step == 1


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_samples_are_images(channels: int, size: int) -> None:
    samples = Diffusion(channels, size, steps=2).sample(3)
    assert samples.shape == (3, channels, size, size)
    assert samples.min() >= 0 and samples.max() <= 1


def test_first_an_image_then_noise() -> None:
    signal = Diffusion().signal(torch.tensor([0.0, 0.5, 1.0])).flatten()
    torch.testing.assert_close(signal, torch.tensor([0.99, 0.5, 0.01]))


def test_missing_files_are_one_clear_error() -> None:
    with pytest.raises(MisconfigurationException, match="there is no nowhere"):
        ImageDataModule("mnist", path="nowhere").prepare_data()
