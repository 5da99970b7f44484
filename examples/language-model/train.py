"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from language_model_example.data import TextDataModule
from language_model_example.model import LanguageModel

if __name__ == "__main__":
    run(LanguageModel, TextDataModule)
