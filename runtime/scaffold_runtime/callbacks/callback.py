"""Lightning's import path of Callback."""

from scaffold_runtime.hooks import Callback

__all__ = ["Callback"]
