"""What each process has for itself: random numbers, a place in its data, and sums over its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaffold_runtime.errors import warn

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

# The checkpoint itself has those of the first process, for a reader with one.
OWN = ("transient", "averaging_transient", "gradients", "metrics", "data", "rng")


def gather_own(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """Add to what a process would save what the others have for themselves; all must call this."""
    if trainer.world_size == 1:
        return state
    own = {key: state[key] for key in OWN if key in state}
    return {**state, "ranks": trainer.strategy.gather_to_first(own)}


def own_part(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint as this process saved it.

    Where another number of processes saved it, weights, optimizers and counters are used; an epoch that
    was under way begins anew, since its samples were divided otherwise.
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
