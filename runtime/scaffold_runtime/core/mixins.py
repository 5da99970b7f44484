"""Lightning's import path of the base class that keeps hyperparameters."""

from scaffold_runtime.hparams import WithHyperparameters as HyperparametersMixin

__all__ = ["HyperparametersMixin"]
