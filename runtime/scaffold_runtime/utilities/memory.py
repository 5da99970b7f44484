"""Lightning's place for giving memory back."""

from scaffold_runtime.accelerators import free_memory as garbage_collection_cuda

__all__ = ["garbage_collection_cuda"]
