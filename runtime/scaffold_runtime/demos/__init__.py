"""Small modules for experiments and bug reports."""

from scaffold_runtime.demos.boring_classes import BoringDataModule, BoringModel, DemoModel

__all__ = ["BoringDataModule", "BoringModel", "DemoModel"]
