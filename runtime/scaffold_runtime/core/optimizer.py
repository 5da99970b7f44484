"""Lightning's place for LightningOptimizer."""

from scaffold_runtime.optim import LightningOptimizer

__all__ = ["LightningOptimizer"]
