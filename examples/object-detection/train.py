"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from object_detection_example.data import SceneDataModule
from object_detection_example.model import Detector

if __name__ == "__main__":
    run(Detector, SceneDataModule)
