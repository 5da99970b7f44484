"""Lightning's place for MisconfigurationException."""

from scaffold_runtime.errors import MisconfigurationException

__all__ = ["MisconfigurationException"]
