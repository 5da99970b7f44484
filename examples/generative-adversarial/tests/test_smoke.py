"""Fast checks: the pieces fit together, and the shapes are right."""

import pytest
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from generative_adversarial_example.data import ImageDataModule
from generative_adversarial_example.model import GAN


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    model = GAN()
    before = [weight.clone() for weight in model.parameters()]
    trainer.fit(model, ImageDataModule())
    for old, new in zip(before, model.parameters(), strict=True):
        assert not old.equal(new)  # both optimizers made a step


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_samples_are_images(channels: int, size: int) -> None:
    samples = GAN(channels, size).sample(3)
    assert samples.shape == (3, channels, size, size)
    assert samples.min() >= 0 and samples.max() <= 1


def test_missing_files_are_one_clear_error() -> None:
    with pytest.raises(MisconfigurationException, match="there is no nowhere"):
        ImageDataModule("mnist", path="nowhere").prepare_data()
