"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from image_segmentation_example.data import MaskDataModule
from image_segmentation_example.model import Segmenter

if __name__ == "__main__":
    run(Segmenter, MaskDataModule)
