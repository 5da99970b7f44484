"""Lightning's import path of LightningModule."""

from scaffold_runtime.module import LightningModule

__all__ = ["LightningModule"]
