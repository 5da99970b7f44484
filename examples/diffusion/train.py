"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from diffusion_example.data import ImageDataModule
from diffusion_example.model import Diffusion

if __name__ == "__main__":
    run(Diffusion, ImageDataModule)
