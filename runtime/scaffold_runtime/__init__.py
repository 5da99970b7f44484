"""scaffold_runtime: a small, fast, exactly resumable Trainer for PyTorch.

The names are PyTorch Lightning's: `LightningModule`, `LightningDataModule`, `Trainer`, `Callback`,
`seed_everything`. Each is imported when it is first used, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Callback": "scaffold_runtime.hooks",
    "LightningDataModule": "scaffold_runtime.data",
    "LightningModule": "scaffold_runtime.module",
    "Trainer": "scaffold_runtime.trainer",
    "seed_everything": "scaffold_runtime.seed",
}
__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"]

if TYPE_CHECKING:
    from scaffold_runtime.data import LightningDataModule
    from scaffold_runtime.hooks import Callback
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.seed import seed_everything
    from scaffold_runtime.trainer import Trainer

_SUBMODULES = {
    "accelerators", "callbacks", "cli", "core", "demos", "loggers",
    "plugins", "profilers", "strategies", "tuner", "utilities",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"scaffold_runtime.{name}")
    raise AttributeError(f"module 'scaffold_runtime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
