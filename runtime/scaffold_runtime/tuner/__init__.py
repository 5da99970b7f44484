"""Find a learning rate or a batch size before training."""

from scaffold_runtime.tuner.tuning import Tuner

__all__ = ["Tuner"]
