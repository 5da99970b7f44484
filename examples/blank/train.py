"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from blank_example.data import DataModule
from blank_example.model import Model

if __name__ == "__main__":
    run(Model, DataModule)
