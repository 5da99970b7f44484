"""The command line: `run` for a generated project, `LightningCLI` for everything else."""

from __future__ import annotations

from jsonargparse import Namespace

from scaffold_runtime.cli.lightning import LightningCLI
from scaffold_runtime.cli.optimizers import (
    LRSchedulerCallable,
    LRSchedulerTypeTuple,
    LRSchedulerTypeUnion,
    OptimizerCallable,
    ReduceLROnPlateau,
    instantiate_class,
)
from scaffold_runtime.cli.parser import ArgsType, LightningArgumentParser
from scaffold_runtime.cli.project import run
from scaffold_runtime.cli.save import SaveConfigCallback
from scaffold_runtime.errors import plain_imports

plain_imports()  # a script imports its model and data after this module

__all__ = [
    "ArgsType",
    "LRSchedulerCallable",
    "LRSchedulerTypeTuple",
    "LRSchedulerTypeUnion",
    "LightningArgumentParser",
    "LightningCLI",
    "Namespace",
    "OptimizerCallable",
    "ReduceLROnPlateau",
    "SaveConfigCallback",
    "instantiate_class",
    "run",
]
