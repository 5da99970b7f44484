"""Lightning's import path of MisconfigurationException."""

from scaffold_runtime.errors import MisconfigurationException

__all__ = ["MisconfigurationException"]
