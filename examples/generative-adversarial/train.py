"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from generative_adversarial_example.data import ImageDataModule
from generative_adversarial_example.model import GAN

if __name__ == "__main__":
    run(GAN, ImageDataModule)
