"""TunedAttribute: the attribute that a finder changes, wherever it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaffold_runtime.errors import MisconfigurationException

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


class TunedAttribute:
    """An attribute of the module or the data module, or of their `hparams`.

    Args:
        trainer: the trainer that both are attached to.
        names: the names to look for; the first that is found is taken.
        finder: who is asking, for the error.
        argument: the argument that gives another name, for the error.

    Raises:
        MisconfigurationException: if none is found.
    """

    def __init__(self, trainer: Trainer, names: Sequence[str], finder: str, argument: str) -> None:
        owners = [trainer.lightning_module, trainer.datamodule]
        for name in names:
            self.holders = [
                place
                for owner in owners
                if owner is not None
                for place in (owner, owner.hparams)
                if _has(place, name)
            ]
            if self.holders:
                self.name = name
                return
        wanted = " or ".join(f"`{name}`" for name in names)
        raise MisconfigurationException(
            f"{finder} needs an attribute {wanted} of the module, the data module or their hparams, which it can "
            f"change. Add one, or name yours with {argument}=..."
        )

    def get(self) -> Any:
        """Its value."""
        holder = self.holders[0]
        return holder[self.name] if isinstance(holder, dict) else getattr(holder, self.name)

    def set(self, value: Any) -> None:
        """Change it everywhere."""
        for holder in self.holders:
            if isinstance(holder, dict):
                holder[self.name] = value
            else:
                setattr(holder, self.name, value)


def _has(place: Any, name: str) -> bool:
    return name in place if isinstance(place, dict) else hasattr(place, name)
