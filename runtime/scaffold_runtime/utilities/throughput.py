"""Lightning's place for how operations are counted."""

from scaffold_runtime.callbacks.throughput_monitor import measure_flops

__all__ = ["measure_flops"]
