"""scaffold_runtime: a small, fast, exactly resumable Trainer for PyTorch.

The names are PyTorch Lightning's: `LightningModule`, `LightningDataModule`, `Trainer`, `Callback`,
`seed_everything`. Each is imported when it is first used, so importing this package costs nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scaffold_runtime.lazy import imported_when_used

__version__ = "0.1.0"

_HOME = {
    "Callback": "hooks",
    "LightningDataModule": "data",
    "LightningModule": "module",
    "Trainer": "trainer",
    "seed_everything": "seed",
}
__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"]

_SUBMODULES = {
    "accelerators", "callbacks", "cli", "core", "demos", "loggers",
    "plugins", "profilers", "strategies", "tuner", "utilities",
}  # fmt: skip

# Type checkers and editors see no `__getattr__`, and so know `L.callbacks` and refuse `L.Trianer`.
if TYPE_CHECKING:
    from scaffold_runtime import accelerators as accelerators
    from scaffold_runtime import callbacks as callbacks
    from scaffold_runtime import cli as cli
    from scaffold_runtime import core as core
    from scaffold_runtime import demos as demos
    from scaffold_runtime import loggers as loggers
    from scaffold_runtime import plugins as plugins
    from scaffold_runtime import profilers as profilers
    from scaffold_runtime import strategies as strategies
    from scaffold_runtime import tuner as tuner
    from scaffold_runtime import utilities as utilities
    from scaffold_runtime.data import LightningDataModule
    from scaffold_runtime.hooks import Callback
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.seed import seed_everything
    from scaffold_runtime.trainer import Trainer
else:
    __getattr__ = imported_when_used(__name__, _HOME)

pytorch = sys.modules[__name__]  # `import lightning as L` is followed by `L.pytorch.callbacks`, too


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
