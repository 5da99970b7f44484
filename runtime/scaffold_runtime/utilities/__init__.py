"""Lightning's import paths of helpers that are defined in other modules."""

from scaffold_runtime.combined import CombinedLoader
from scaffold_runtime.data import move_data_to_device
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hparams import AttributeDict
from scaffold_runtime.lazy import imported_when_used
from scaffold_runtime.optim import grad_norm
from scaffold_runtime.ranks import (
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
)

__all__ = [
    "AttributeDict",
    "CombinedLoader",
    "MisconfigurationException",
    "grad_norm",
    "measure_flops",
    "move_data_to_device",
    "rank_zero_debug",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
]
__getattr__ = imported_when_used(__name__, {"measure_flops": "throughput"})
