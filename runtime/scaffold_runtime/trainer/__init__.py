"""The Trainer, its arguments, and the states it reports."""

from scaffold_runtime.trainer.trainer import Trainer

__all__ = ["Trainer"]
