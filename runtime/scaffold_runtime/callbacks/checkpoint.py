"""Lightning's import path of Checkpoint."""

from scaffold_runtime.hooks import Checkpoint

__all__ = ["Checkpoint"]
