"""Lightning's place for Callback."""

from scaffold_runtime.hooks import Callback

__all__ = ["Callback"]
