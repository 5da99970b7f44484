"""TunedAttribute: the attribute that a finder changes, in the module, the data module or their hparams."""

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
        names: the names to look for; the first that is found is used.
        finder: the name of the finder, for the error.
        argument: the finder's argument for another name, for the error.

    Raises:
        MisconfigurationException: if none is found.
    """

    def __init__(self, trainer: Trainer, names: Sequence[str], finder: str, argument: str) -> None:
        owners = [o for o in (trainer.lightning_module, trainer.datamodule) if o is not None]
        places = [place for owner in owners for place in (owner, owner.hparams)]
        for name in names:
            self.name, self.holders = name, [place for place in places if hasattr(place, name)]
            if self.holders:
                return
        wanted = " or ".join(f"`{name}`" for name in names)
        raise MisconfigurationException(
            f"{finder} needs an attribute {wanted} of the module, the data module or their hparams, which it can "
            f"change. Add one, or name yours with {argument}=..."
        )

    def get(self) -> Any:
        """The attribute's value."""
        return getattr(self.holders[0], self.name)

    def set(self, value: Any) -> None:
        """Set the value wherever the attribute exists."""
        for holder in self.holders:
            setattr(holder, self.name, value)
