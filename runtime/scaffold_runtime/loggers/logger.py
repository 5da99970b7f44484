"""Lightning's place for Logger."""

from scaffold_runtime.loggers.base import Logger

__all__ = ["Logger"]
