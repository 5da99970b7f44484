"""Lightning's place for AttributeDict, and for the arguments of an `__init__`."""

from scaffold_runtime.hparams import AttributeDict
from scaffold_runtime.hparams import arguments_of as get_init_args

__all__ = ["AttributeDict", "get_init_args"]
