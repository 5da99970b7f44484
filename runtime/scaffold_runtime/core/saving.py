"""Lightning's import path of functions for files of hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scaffold_runtime.hparams import as_mapping
from scaffold_runtime.loggers.logger import plain_tree


def save_hparams_to_yaml(config_yaml: str | Path, hparams: Any, use_omegaconf: bool = True) -> None:
    """Write hyperparameters to a YAML file; values that are not plain are written as text."""
    text = yaml.safe_dump(plain_tree(as_mapping(hparams)), sort_keys=False)
    Path(config_yaml).write_text(text, encoding="utf-8")


def load_hparams_from_yaml(config_yaml: str | Path, use_omegaconf: bool = True) -> dict[str, Any]:
    """Read a YAML file of hyperparameters; an empty dict if there is no file."""
    file = Path(config_yaml)
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}


__all__ = ["load_hparams_from_yaml", "save_hparams_to_yaml"]
