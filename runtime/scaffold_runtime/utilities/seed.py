"""Lightning's place for random numbers."""

from scaffold_runtime.seed import isolate_rng, seed_everything

__all__ = ["isolate_rng", "seed_everything"]
