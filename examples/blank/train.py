"""Train with `python train.py`; what it does is in `configs/` and in `--help`."""

from scaffold_runtime.cli import run

from blank_example.data import DataModule
from blank_example.model import Model

if __name__ == "__main__":
    run(Model, DataModule)
