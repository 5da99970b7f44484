"""Lightning's import path of CombinedLoader."""

from scaffold_runtime.combined import CombinedLoader

__all__ = ["CombinedLoader"]
