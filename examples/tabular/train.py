"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from tabular_example.data import TabularDataModule
from tabular_example.model import TabularModel

if __name__ == "__main__":
    run(TabularModel, TabularDataModule)
