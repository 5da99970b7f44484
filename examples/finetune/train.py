"""Train with `python train.py`; what it does is in `configs/` and in `--help`."""

from scaffold_runtime.cli import run

from finetune_example.data import DigitsDataModule
from finetune_example.model import FineTuned

if __name__ == "__main__":
    run(FineTuned, DigitsDataModule)
