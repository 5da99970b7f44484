"""Lightning's place for AttributeDict."""

from scaffold_runtime.hparams import AttributeDict

__all__ = ["AttributeDict"]
