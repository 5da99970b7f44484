"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from time_series_example.data import SeriesDataModule
from time_series_example.model import Forecaster

if __name__ == "__main__":
    run(Forecaster, SeriesDataModule)
