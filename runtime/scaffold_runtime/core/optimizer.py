"""Lightning's import path of LightningOptimizer."""

from scaffold_runtime.optim import LightningOptimizer

__all__ = ["LightningOptimizer"]
