"""CheckpointIO: how checkpoints are written to files and read back."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

from scaffold_runtime.checkpoint.io import read_checkpoint, remove, write_checkpoint


class CheckpointIO(abc.ABC):
    """How checkpoints are written and read. To change it, subclass this and pass it: `Trainer(plugins=MyIO())`.

    Runs look for checkpoints in folders, so `save_checkpoint` must leave a file at `path`. Sharded checkpoints (of
    DeepSpeed, and of FSDP on request) are written and read in their own way.
    """

    in_background: bool = False  # whether ModelCheckpoint writes a copy while training continues

    @abc.abstractmethod
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, of tensors and plain values."""

    @abc.abstractmethod
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote."""

    @abc.abstractmethod
    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if it exists."""

    def teardown(self) -> None:
        """A run ended: finish pending work."""


class TorchCheckpointIO(CheckpointIO):
    """The default: torch's zip format, written atomically and verified when read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        remove(Path(path))


class AsyncCheckpointIO(CheckpointIO):
    """Write the checkpoints of all ModelCheckpoints while training continues, as their `async_save=True` does.

    Args:
        checkpoint_io: how they are written; TorchCheckpointIO if None.
    """

    in_background = True

    def __init__(self, checkpoint_io: CheckpointIO | None = None) -> None:
        self.checkpoint_io = checkpoint_io or TorchCheckpointIO()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: str | Path) -> None:
        self.checkpoint_io.remove_checkpoint(path)

    def teardown(self) -> None:
        self.checkpoint_io.teardown()
