"""SaveConfigCallback: every run keeps its configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from scaffold_runtime.errors import MisconfigurationException, hide_passwords
from scaffold_runtime.hooks import Callback, overridden

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer
    from scaffold_runtime.cli.parser import LightningArgumentParser


class SaveConfigCallback(Callback):
    """Write the resolved configuration into the folder of the run, to be replayed with `--config`.

    It is written before training starts, after weights were loaded from a checkpoint. If a resumed run has other
    settings than before, the old file becomes `config.replaced.yaml`. The file of a resumed run names no checkpoint,
    so replaying it starts from the beginning. Validation and testing write it only if they logged something, so that
    evaluating a model leaves no folders behind.

    Args:
        parser: what parsed the configuration.
        config: the configuration.
        config_filename: the file's name.
        overwrite: replace an existing file; a resumed run replaces its own in any case.
        multifile: write a configuration that came from several files into several files.
        save_to_log_dir: write the file; False leaves everything to an overridden `save_config`.

    Raises:
        MisconfigurationException: if nothing would be saved, or the file exists.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        config_filename: str = "config.yaml",
        overwrite: bool = False,
        multifile: bool = False,
        save_to_log_dir: bool = True,
    ) -> None:
        self.parser = parser
        self.config = config
        self.config_filename = config_filename
        self.overwrite = overwrite
        self.multifile = multifile
        self.save_to_log_dir = save_to_log_dir
        self.already_saved = False
        if not save_to_log_dir and not overridden("save_config", self, SaveConfigCallback):
            raise MisconfigurationException(
                "SaveConfigCallback(save_to_log_dir=False) saves nothing: override `save_config`, or "
                "switch it off with LightningCLI(save_config_callback=None)."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.loggers and trainer.logged_metrics:
            self._save(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Override this to save `self.config` elsewhere too. Runs on rank 0 only."""

    def _save(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.already_saved or not trainer.is_global_zero:
            return
        if self.save_to_log_dir:
            fits = stage == "fit" and trainer.ckpt_path is not None
            self._write(trainer.log_dir, fits and trainer._live().restore.resumes)
        self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def _write(self, folder: str, resumed: bool) -> None:
        path, config = os.path.join(folder, self.config_filename), self.config
        if resumed and "ckpt_path" in config:
            config = config.clone()
            config["ckpt_path"] = None
        if os.path.isfile(path) and not (self.overwrite or resumed):
            raise MisconfigurationException(
                f"{path} exists, and belongs to an earlier run. Delete it, choose another folder, or use "
                'LightningCLI(save_config_kwargs={"overwrite": True}).'
            )
        before = Path(path).read_bytes() if os.path.isfile(path) else None
        write_config(self.parser, config, path, self.multifile)
        if before not in (None, Path(path).read_bytes()):
            stem, ending = os.path.splitext(path)
            Path(f"{stem}.replaced{ending}").write_bytes(before)


def write_config(
    parser: LightningArgumentParser,
    config: Namespace,
    path: str | os.PathLike[str],
    multifile: bool = False,
) -> None:
    """Write a resolved configuration to `path`, replacing the file; with `None` values, without passwords."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    config = _without_passwords(config)
    if multifile:
        parser.save(config, os.fspath(path), skip_unset=False, overwrite=True)
    else:  # not by jsonargparse, which uses the locale's encoding
        Path(path).write_text(parser.dump(config, skip_unset=False), encoding="utf-8")


def _without_passwords(value: Any) -> Any:
    if isinstance(value, str):
        return hide_passwords(value)
    if isinstance(value, (dict, Namespace)):
        copied = value.clone() if isinstance(value, Namespace) else dict(value)
        entries = vars(copied) if isinstance(copied, Namespace) else copied
        entries.update({key: _without_passwords(item) for key, item in entries.items()})
        return copied
    return [_without_passwords(item) for item in value] if isinstance(value, list) else value
