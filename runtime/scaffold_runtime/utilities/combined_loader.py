"""Lightning's place for CombinedLoader."""

from scaffold_runtime.combined import CombinedLoader

__all__ = ["CombinedLoader"]
