"""Lightning's place for CSVLogger."""

from scaffold_runtime.loggers.csv import CSVLogger

__all__ = ["CSVLogger"]
