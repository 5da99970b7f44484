"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from text_classification_example.data import TextDataModule
from text_classification_example.model import TextClassifier

if __name__ == "__main__":
    run(TextClassifier, TextDataModule)
