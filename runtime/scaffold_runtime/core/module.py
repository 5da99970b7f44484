"""Lightning's place for LightningModule."""

from scaffold_runtime.module import LightningModule

__all__ = ["LightningModule"]
