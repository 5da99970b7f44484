"""Lightning's import path of AttributeDict and `get_init_args`."""

from scaffold_runtime.hparams import AttributeDict
from scaffold_runtime.hparams import arguments_of as get_init_args

__all__ = ["AttributeDict", "get_init_args"]
