"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from image_classification_example.data import ImageDataModule
from image_classification_example.model import ImageClassifier

if __name__ == "__main__":
    run(ImageClassifier, ImageDataModule)
