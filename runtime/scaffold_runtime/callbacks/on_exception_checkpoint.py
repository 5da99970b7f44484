"""OnExceptionCheckpoint: save when training fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scaffold_runtime.checkpoint.io import remove
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, warn
from scaffold_runtime.hooks import Checkpoint

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class OnExceptionCheckpoint(Checkpoint):
    """Save one checkpoint when training fails or is interrupted; it is removed when training succeeds.

    Args:
        dirpath: the folder.
        filename: the name, without ".ckpt".

    Raises:
        MisconfigurationException: if `filename` is empty.
    """

    FILE_EXTENSION = ".ckpt"

    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        if not filename:
            raise MisconfigurationException(
                "OnExceptionCheckpoint(filename=''): the file needs a name."
            )
        self.dirpath, self.filename = os.fspath(dirpath), filename

    @property
    def ckpt_path(self) -> str:
        """Where the checkpoint goes."""
        return os.path.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    @property
    def state_key(self) -> str:
        return self._generate_state_key(dirpath=self.dirpath, filename=self.filename)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.fn != "fit" or trainer.stage is None:
            return  # nothing was trained yet
        try:
            trainer.save_checkpoint(self.ckpt_path)
        except CheckpointError as error:  # the original exception matters more
            warn(f"OnExceptionCheckpoint could not save: {error}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        resumed_from = trainer.ckpt_path and os.path.realpath(trainer.ckpt_path)
        if stage == "fit" and os.path.realpath(self.ckpt_path) != resumed_from:
            remove(Path(self.ckpt_path))
