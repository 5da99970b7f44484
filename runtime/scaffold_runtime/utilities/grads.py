"""Lightning's import path of grad_norm."""

from scaffold_runtime.optim import grad_norm

__all__ = ["grad_norm"]
