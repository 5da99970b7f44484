"""What `fit` loads from a checkpoint: all of it to resume, or weights, or weights and optimizer states."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from scaffold_runtime.checkpoint.engine import ENGINE, with_weights
from scaffold_runtime.checkpoint.state import restore_optimizers, restore_weights
from scaffold_runtime.checkpoint.transient import plain_name
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, check_choice
from scaffold_runtime.optim import give_base

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

WHAT = ("all", "weights", "optimizers")


@dataclass(frozen=True)
class Restore:
    """See `Trainer.fit`.

    Raises:
        MisconfigurationException: if a value is unknown, or two contradict each other.
    """

    what: str = "all"
    keys: str = "*"
    strict: bool | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        check_choice("fit", "restore", self.what, *WHAT)
        if self.keys != "*" and self.what != "weights":
            raise MisconfigurationException(
                f"restore_keys={self.keys!r} chooses among weights: use it with restore='weights'."
            )
        if self.lr is not None and (self.what == "weights" or not self.lr > 0):
            raise MisconfigurationException(
                f"restore_lr={self.lr!r}: give a number above 0 with restore='all' or 'optimizers'; with "
                "'weights', optimizers are new and have the learning rate they are configured with."
            )

    @property
    def resumes(self) -> bool:
        """Whether the run continues where it stopped, in its own folder."""
        return self.what == "all"

    def weights(self, run: Run, checkpoint: dict[str, Any]) -> None:
        """Load the chosen weights into a new run.

        Raises:
            CheckpointError: naming missing and unexpected weights.
        """
        module = run.module
        module.on_load_checkpoint(checkpoint)
        kept = with_weights(checkpoint).get("state_dict", {})
        given = {name: weight for name, weight in kept.items() if self._chosen(name)}
        own = {plain_name(name) for name in module.state_dict() if self._chosen(name)}
        strict = module.strict_loading if self.strict is None else self.strict
        astray = sorted(own ^ set(given))
        if not own & set(given) or (strict and astray):
            more = f" and {len(astray) - 4} more" if len(astray) > 4 else ""
            raise CheckpointError(
                f"the checkpoint and {type(module).__name__} do not have the same weights {self.keys!r}: "
                f"{', '.join(astray[:4]) or 'there are none'}{more}. Choose others by restore_keys, or take those that "
                "both have by restore_strict=False."
            )
        shared = {name: weight for name, weight in given.items() if name in own}
        restore_weights(run, {"state_dict": shared}, strict=False)

    def _chosen(self, name: str) -> bool:
        return fnmatchcase(plain_name(name), self.keys)

    def optimizers(self, run: Run, checkpoint: dict[str, Any]) -> None:
        """Load optimizer states; settings such as the learning rate stay as configured.

        Raises:
            CheckpointError: if the checkpoint has none, or those of other optimizers.
        """
        if checkpoint.get("optimizer_states") is None:
            raise CheckpointError("the checkpoint holds weights only: use restore='weights'.")
        if ENGINE in checkpoint or run.trainer.strategy.owns_state:
            raise CheckpointError(
                "optimizer states cannot be taken alone from or into DeepSpeed, which shards them: use "
                "restore='weights', or resume with the same stage and number of processes."
            )
        states, groups = checkpoint["optimizer_states"], _groups(run.optimizers)
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        kept = [group for state in states for group in state.get("param_groups", ())]
        for group, configured in zip(kept, settings, strict=False):
            group.update(configured)  # before loading, too: some decide where torch puts the state
        restore_optimizers(run, states)
        for group, configured in zip(_groups(run.optimizers), settings, strict=True):
            group.update(configured)

    def learning_rate(self, run: Run) -> None:
        """Give optimizers and schedulers the new learning rate, if there is one."""
        if self.lr is None:
            return
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group.update({key: self.lr for key in ("lr", "initial_lr") if key in group})
        for config in run.scheduler_configs:
            for kind in give_base(config.scheduler, self.lr):
                raise MisconfigurationException(
                    f"restore_lr={self.lr}: {kind} sets learning rates itself. Change its "
                    "arguments in `configure_optimizers`, and take restore='optimizers'."
                )


def _groups(optimizers: list[Any]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
