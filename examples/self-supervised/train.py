"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from self_supervised_example.data import ImageDataModule
from self_supervised_example.model import SimCLR

if __name__ == "__main__":
    run(SimCLR, ImageDataModule)
