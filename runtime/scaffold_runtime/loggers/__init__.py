"""Loggers: they record metrics and hyperparameters of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers.csv_logs import CSVLogger
from scaffold_runtime.loggers.logger import FolderLogger, Logger, ServiceLogger
from scaffold_runtime.loggers.mlflow import MLFlowLogger
from scaffold_runtime.loggers.tensorboard import TensorBoardLogger
from scaffold_runtime.loggers.wandb import WandbLogger

__all__ = [
    "CSVLogger",
    "FolderLogger",
    "Logger",
    "MLFlowLogger",
    "ServiceLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "default_logger",
    "select_loggers",
]


def default_logger(root: str) -> Logger:
    """The logger of `Trainer(logger=True)`: TensorBoard if it is installed, else CSV."""
    installed = importlib.util.find_spec("tensorboard") is not None
    return TensorBoardLogger(root) if installed else CSVLogger(root)


def select_loggers(choice: bool | Logger | Iterable[Logger] | None, root: str) -> list[Logger]:
    """Turn the Trainer's `logger` argument into loggers; all share the run folder of the first that has one.

    Raises:
        MisconfigurationException: if one of them is not a Logger.
    """
    if choice is None or choice is True:
        return [default_logger(root)]
    if choice is False:
        return []
    several = isinstance(choice, Iterable) and not isinstance(choice, (Logger, str))
    loggers: list[Any] = list(choice) if several else [choice]  # type: ignore[arg-type] # iterable
    for logger in loggers:
        if not isinstance(logger, Logger):
            raise MisconfigurationException(
                f"Trainer(logger=...): {logger!r} is not a Logger. Pass True, False, a Logger, or several."
            )
    first = next((logger for logger in loggers if logger.root_dir), None)
    for logger in loggers:
        if first is not None and logger is not first:
            logger.follow(first)
    return loggers
