"""What `Trainer(plugins=...)` accepts, under Lightning's names."""

from __future__ import annotations

from dataclasses import dataclass

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.plugins.environments import ClusterEnvironment
from scaffold_runtime.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from scaffold_runtime.plugins.precision import (
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
)

__all__ = [
    "AsyncCheckpointIO",
    "CheckpointIO",
    "ClusterEnvironment",
    "DoublePrecision",
    "HalfPrecision",
    "MixedPrecision",
    "Precision",
    "TorchCheckpointIO",
]

Plugin = Precision | ClusterEnvironment | CheckpointIO


@dataclass
class Plugins:
    """The plugins of a Trainer, one of each kind at most."""

    precision: str | int | Precision | None
    environment: ClusterEnvironment | None = None
    checkpoint_io: CheckpointIO | None = None


KINDS = {"precision": Precision, "environment": ClusterEnvironment, "checkpoint_io": CheckpointIO}


def sort_plugins(given: Plugin | list[Plugin] | None, precision: str | int | None) -> Plugins:
    """Sort plugins by kind; `precision` is the Trainer's argument of that name.

    Raises:
        MisconfigurationException: for an object that is no plugin, or two plugins of a kind.
    """
    plugins = Plugins(precision)
    given = given if isinstance(given, (list, tuple)) else [given] if given is not None else []
    for plugin in given:
        kind = next((name for name, kind in KINDS.items() if isinstance(plugin, kind)), None)
        if kind is None:
            raise MisconfigurationException(
                f"Trainer(plugins=...): {plugin!r} is not a plugin this trainer knows. Pass a Precision, "
                "a ClusterEnvironment, or a CheckpointIO."
            )
        if getattr(plugins, kind) is not None:
            raise MisconfigurationException(
                f"Trainer(precision={precision!r}, plugins=...) names the {kind} twice: leave one out."
            )
        setattr(plugins, kind, plugin)
    return plugins
