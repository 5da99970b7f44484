"""Lightning's import path of measure_flops."""

from scaffold_runtime.callbacks.throughput_monitor import measure_flops

__all__ = ["measure_flops"]
