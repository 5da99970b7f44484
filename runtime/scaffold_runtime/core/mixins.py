"""Lightning's place for what keeps hyperparameters."""

from scaffold_runtime.hparams import WithHyperparameters as HyperparametersMixin

__all__ = ["HyperparametersMixin"]
