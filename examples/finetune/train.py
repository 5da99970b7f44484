"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from finetune_example.data import DigitsDataModule
from finetune_example.model import FineTuned

if __name__ == "__main__":
    run(FineTuned, DigitsDataModule)
