"""The Trainer, and the words for what it is doing."""

from scaffold_runtime.trainer.trainer import Trainer

__all__ = ["Trainer"]
