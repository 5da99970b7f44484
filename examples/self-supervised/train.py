"""Train with `python train.py`; what it does is in `configs/` and in `--help`."""

from scaffold_runtime.cli import run

from self_supervised_example.data import ImageDataModule
from self_supervised_example.model import SimCLR

if __name__ == "__main__":
    run(SimCLR, ImageDataModule)
