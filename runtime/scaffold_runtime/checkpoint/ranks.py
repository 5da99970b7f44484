"""State that differs between ranks: random state, data position, and sums over a rank's own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaffold_runtime.errors import warn

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

# At the top level a checkpoint has those of rank 0, for a reader with one process.
OWN = ("transient", "averaging_transient", "gradients", "metrics", "data", "rng")


def gather_own(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """Add to rank 0's `state` what differs on each rank; all ranks must call this."""
    if trainer.world_size == 1:
        return state
    own = {key: state[key] for key in OWN if key in state}
    return {**state, "ranks": trainer.strategy.gather_to_first(own)}


def own_part(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint as this process saved it.

    If a different number of processes saved it, only weights, optimizers and counters are used, and an unfinished
    epoch starts over, since its samples were sharded differently.
    """
    ranks = checkpoint.get("ranks") or [{}]
    if len(ranks) == trainer.world_size:
        return {**checkpoint, **ranks[trainer.global_rank]}
    progress = dict(checkpoint.get("progress") or {})
    under_way = progress.get("batch")
    if under_way and trainer.is_global_zero:
        warn(
            f"the checkpoint was saved in the middle of an epoch by {len(ranks)} process(es), and there are "
            f"{trainer.world_size} now: this epoch starts over."
        )
    if progress:
        progress["batches"] -= progress["batch"]
        progress["batch"] = progress["pending"] = 0
    gone = {"gradients", "data", "metrics", "rng"}
    kept = {key: value for key, value in checkpoint.items() if key not in gone}
    if under_way and "transient" in kept:
        kept["transient"] = {**kept["transient"], "metrics": {}}
    return {**kept, "progress": progress}
