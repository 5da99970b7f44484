"""Lightning's import path of LightningDataModule."""

from scaffold_runtime.data import LightningDataModule

__all__ = ["LightningDataModule"]
