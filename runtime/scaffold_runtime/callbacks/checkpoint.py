"""Lightning's place for Checkpoint."""

from scaffold_runtime.hooks import Checkpoint

__all__ = ["Checkpoint"]
