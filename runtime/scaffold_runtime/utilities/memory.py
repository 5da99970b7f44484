"""Lightning's import path of functions that free memory, and that recognize out-of-memory errors."""

from scaffold_runtime.accelerators import free_memory as garbage_collection_cuda
from scaffold_runtime.accelerators import is_out_of_memory as is_oom_error

__all__ = ["garbage_collection_cuda", "is_oom_error"]
