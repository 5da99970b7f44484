"""Parts that `Trainer(plugins=...)` takes, under the names Lightning gives them."""

from scaffold_runtime.plugins.precision import (
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
)

__all__ = ["DoublePrecision", "HalfPrecision", "MixedPrecision", "Precision"]
