"""Lightning's import path of functions for random state."""

from scaffold_runtime.seed import isolate_rng, seed_everything

__all__ = ["isolate_rng", "seed_everything"]
