"""Lightning's place for LightningDataModule."""

from scaffold_runtime.data import LightningDataModule

__all__ = ["LightningDataModule"]
