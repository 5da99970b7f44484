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


__getattr__ = imported_when_used(__name__, _HOME)
pytorch = sys.modules[__name__]  # `import lightning as L` is followed by `L.pytorch.callbacks`, too


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
