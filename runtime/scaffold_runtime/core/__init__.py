"""Lightning's place for the base classes of models and data."""

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule"]
