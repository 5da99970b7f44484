"""Lightning's import path of the base classes of models and data modules."""

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.lazy import imported_when_used
from scaffold_runtime.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule"]
__getattr__ = imported_when_used(__name__, {})
