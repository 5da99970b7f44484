"""ModelCheckpoint: keep the best, the last, or every checkpoint."""

from __future__ import annotations

import math
import os
import re
import time
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from scaffold_runtime.checkpoint.background import Background
from scaffold_runtime.checkpoint.find import remember_job
from scaffold_runtime.checkpoint.folder import save_later, sweep
from scaffold_runtime.checkpoint.io import is_checkpoint, link_atomically, written
from scaffold_runtime.checkpoint.litter import remove_litter
from scaffold_runtime.checkpoint.snapshot import snapshot
from scaffold_runtime.checkpoint.state import check_stored, collect
from scaffold_runtime.errors import (
    CheckpointError,
    MisconfigurationException,
    check_choice,
    check_local,
    not_logged,
    warn,
)
from scaffold_runtime.hooks import Checkpoint, overridden
from scaffold_runtime.signals import INTERRUPTED

TRIGGERS = ("every_n_train_steps", "every_n_epochs", "train_time_interval")
ABANDONED = 24 * 3600.0  # seconds after which no save can still be waiting for other ranks' parts

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


def _alias(name: str) -> Any:
    """A property that is another name of an attribute."""
    return property(attrgetter(name), lambda self, value: setattr(self, name, value))


class ModelCheckpoint(Checkpoint):
    """Save checkpoints while training, and keep the ones worth keeping.

    Args:
        dirpath: the folder; `checkpoints` in the run folder if not given.
        filename: the name, with metrics in braces: "{epoch}-{val_loss:.2f}"; "{epoch}-{step}" if not given.
        monitor: the logged metric that decides which are best; None keeps the newest.
        verbose: print a line when one is saved.
        save_last: also keep `last.ckpt`, a copy of the newest ("link" makes it a symbolic link), or what training ends
            with where none was due.
        save_top_k: how many to keep: 1, more, -1 for all, 0 for none.
        save_on_exception: save when training fails, under a name that says so.
        save_weights_only: leave out optimizers and everything else needed to resume.
        mode: "min" or "max": which way `monitor` is better.
        auto_insert_metric_name: write "epoch=3-step=40" and not "3-40".
        every_n_train_steps: save every N optimizer steps.
        train_time_interval: save after this much time, at the next batch.
        every_n_epochs: save every N epochs; the default is every epoch.
        save_on_train_epoch_end: save at the end of training epochs and not after validation.
        enable_version_counter: add -v1, -v2, ... if a name is taken; otherwise overwrite it. A resumed
            run overwrites its own.
        async_save: copy the state and write it while training goes on. An error is raised at the next batch, and
            training does not end before the last file is written.

    Raises:
        MisconfigurationException: if arguments contradict each other, or `monitor` is missing at a save.
    """

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | str | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        async_save: bool = False,
    ) -> None:
        check_local("ModelCheckpoint(dirpath)", dirpath)
        self.dirpath = os.path.realpath(os.path.expanduser(dirpath)) if dirpath else None
        self.filename = filename
        self.monitor, self.mode = monitor, mode
        self.verbose = verbose
        self.save_last, self.save_top_k = save_last, save_top_k
        self.save_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.auto_insert_metric_name = auto_insert_metric_name
        self.enable_version_counter, self.async_save = enable_version_counter, async_save
        self._set_triggers(every_n_train_steps, train_time_interval, every_n_epochs)
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._check_arguments()
        self.current_score: torch.Tensor | None = None
        self.best_k_models: dict[str, float] = {}
        self.best_model_score: torch.Tensor | None = None
        self.best_model_path = ""
        self.last_model_path = ""
        self._candidates: dict[str, Any] | None = None
        self._chosen_by: dict[str, Any] = {}
        self._last_global_step_saved = -1
        self._writing: list[str] = []  # paths to write the state of this commit to
        self._to_remove: list[str] = []  # paths to remove once those are safe on disk
        self._resumed_at: int | None = None  # when the resumed checkpoint was written
        self._ours: set[str] = set()  # paths written in this training
        self._continues = False
        self._background = Background()
        self._copied: Any = None  # the last state written in the background
        self._last_time = time.monotonic()
        self._waits_for_monitor = False

    def _set_triggers(
        self, steps: int | None, interval: timedelta | None, epochs: int | None
    ) -> None:
        if steps is None and epochs is None and interval is None:
            epochs = 1
        self.train_time_interval = interval
        self.every_n_train_steps, self.every_n_epochs = steps or 0, epochs or 0
        given = [name for name in TRIGGERS if getattr(self, name)]
        if len(given) > 1:
            raise MisconfigurationException(
                f"ModelCheckpoint: {' and '.join(given)} cannot be used together. "
                "Use one ModelCheckpoint for each."
            )

    def _check_arguments(self) -> None:
        try:
            self._fill(self.filename or "", {})
        except ValueError as error:
            raise MisconfigurationException(
                f"ModelCheckpoint(filename={self.filename!r}): {error}."
            ) from None
        check_choice(self, "mode", self.mode, "min", "max")
        if self.save_top_k < -1:
            raise MisconfigurationException(
                f"ModelCheckpoint(save_top_k={self.save_top_k}): give -1 for all, 0 for none, or a number."
            )
        if self.monitor is None and self.save_top_k not in (-1, 0, 1):
            raise MisconfigurationException(
                f"ModelCheckpoint(monitor=None, save_top_k={self.save_top_k}): without a monitor none is better "
                "than another. Give a monitor, or save_top_k of -1, 0 or 1."
            )
        if self.async_save and overridden("_save_checkpoint", self, ModelCheckpoint):
            warn(
                f"{type(self).__name__} has a `_save_checkpoint` of its own, which writes within training: async_save "
                "has no effect."
            )
        check_choice(self, "save_last", self.save_last, None, True, False, "link")
        for name in ("every_n_train_steps", "every_n_epochs"):
            if getattr(self, name) < 0:
                raise MisconfigurationException(
                    f"ModelCheckpoint({name}={getattr(self, name)}): it must be at least 0."
                )

    # -- state ------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        names = ("monitor", "mode", *TRIGGERS)
        return self._generate_state_key(**{name: getattr(self, name) for name in names})

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "current_score": self.current_score,
            "dirpath": self.dirpath,
            "best_k_models": dict(self.best_k_models),
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "last_model_path": self.last_model_path,
            "last_step_saved": self._last_global_step_saved,
            "writing": list(self._writing),
            "leaving": list(self._to_remove),
            "waits_for_monitor": self._waits_for_monitor,
            "candidates": self._candidates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_model_path = state_dict["best_model_path"]
        score = state_dict["best_model_score"]
        self.best_model_score = None if score is None else torch.as_tensor(score)
        self.dirpath = self.dirpath or state_dict["dirpath"]  # set by a run in child processes
        if self.dirpath == state_dict["dirpath"]:  # otherwise the others belong to another folder
            self.best_k_models = {k: float(v) for k, v in state_dict["best_k_models"].items()}
            self.last_model_path = state_dict["last_model_path"]
            score = state_dict["current_score"]
            self.current_score = None if score is None else torch.as_tensor(score)
            self._last_global_step_saved = state_dict.get("last_step_saved", -1)
            self._writing = list(state_dict.get("writing", []))
            self._to_remove = list(state_dict.get("leaving", []))
            self._waits_for_monitor = state_dict.get("waits_for_monitor", False)
            self._candidates = state_dict.get("candidates")
            self.asked = self._candidates is not None
            self._continues = True
        else:
            warn(
                f"ModelCheckpoint now saves into {self.dirpath}, and not into {state_dict['dirpath']} as the run it "
                "resumes: of its checkpoints there, only the best is remembered, and none is removed."
            )

    @property
    def kth_best_model_path(self) -> str:
        """The path of the worst checkpoint that is kept; "" if there is none."""
        worst = max if self.mode == "min" else min
        return worst(self.best_k_models, key=self.best_k_models.__getitem__, default="")

    @property
    def kth_value(self) -> torch.Tensor:
        """The score of the worst checkpoint that is kept."""
        return torch.tensor(self.best_k_models.get(self.kth_best_model_path, self._worst))

    @property
    def _worst(self) -> float:
        return math.inf if self.mode == "min" else -math.inf

    # -- when -------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.dirpath is None and stage == "fit" and not trainer.fast_dev_run:
            self.dirpath = os.path.realpath(os.path.join(trainer.log_dir, "checkpoints"))
        self._last_time = trainer.strategy.now()
        fresh = stage == "fit" and not trainer.progress.batches and trainer.ckpt_path is None
        if fresh and self.best_model_path and trainer.is_global_zero:
            warn(
                "this ModelCheckpoint comes from another trainer, and keeps what was best there, "
                f"{self.best_model_path}: make one for each trainer."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._save_on_train_epoch_end is None:
            once = trainer.validates_each_epoch
            self._save_on_train_epoch_end = once or not trainer._live().validates
        if self.dirpath and trainer.is_global_zero and not trainer.fast_dev_run:
            self._finish_killed_save(trainer, Path(self.dirpath))
            remember_job(Path(self.dirpath))
        self._writing, self._to_remove = [], []
        self._ours, self._resumed_at = set(), None
        if self._continues and trainer.ckpt_path and os.path.exists(trainer.ckpt_path):
            self._resumed_at = written(Path(trainer.ckpt_path))
        self._continues = False

    def _finish_killed_save(self, trainer: Trainer, folder: Path) -> None:
        remove_litter(folder)
        for left in folder.glob(f"*{self.FILE_EXTENSION}"):
            if left.is_dir() and time.time() - left.stat().st_mtime > ABANDONED:
                sweep(left)
        if trainer.ckpt_path is not None:
            for name in self._writing:
                if _older(name, trainer.ckpt_path):
                    link_atomically(Path(trainer.ckpt_path), Path(name))
            for old in self._to_remove:
                self._remove(trainer, old)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_train_steps > 0 and step > 0 and step % self.every_n_train_steps == 0
        if self.train_time_interval is not None:
            elapsed = trainer.strategy.now() - self._last_time
            due = elapsed >= self.train_time_interval.total_seconds()
        if due and step != self._last_global_step_saved:
            self._last_time = trainer.strategy.now()
            self._request_save(trainer, wait=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = not self._should_save_on_train_epoch_end(trainer) and self._epoch_due(trainer)
        if due or self._waits_for_monitor:
            self._request_save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        arrived = self._waits_for_monitor and self.monitor in trainer.callback_metrics
        due = self._should_save_on_train_epoch_end(trainer) and self._epoch_due(trainer)
        if due or arrived:
            self._request_save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        try:
            self._background.wait()
        except Exception as error:  # a user's CheckpointIO may raise anything
            warn(f"ModelCheckpoint could not save: {error}")
        trains = trainer.fn == "fit" and trainer.stage is not None  # or validates, within training
        if not (self.save_on_exception and trains and trainer.global_step and self.dirpath):
            return
        name = f"exception-{type(exception).__name__}-epoch={trainer.current_epoch}-step={trainer.global_step}"
        try:
            trainer.save_checkpoint(Path(self.dirpath) / f"{name}{self.FILE_EXTENSION}")
        except CheckpointError as error:  # the original exception matters more
            warn(f"ModelCheckpoint could not save: {error}")

    def _epoch_due(self, trainer: Trainer) -> bool:
        return self.every_n_epochs >= 1 and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _request_save(self, trainer: Trainer, wait: bool = False) -> None:
        """Request a save at the next commit, with the current metrics."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        run = trainer._live()
        self._waits_for_monitor = False
        if wait and self.monitor is not None:
            due = run.validates and run.validation_due()
            never = self.monitor not in trainer.callback_metrics and trainer.validation_ahead
            # Wait for the new value. If there is none yet at all, `last.ckpt` may be saved already.
            self._waits_for_monitor = due or never
            if due or (never and not self.save_last):
                return
        self.asked = True
        self._candidates = self._monitor_candidates(trainer)

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Any]:
        """The current metrics; while a file is written, those that it was chosen by."""
        if self._writing:
            return self._chosen_by
        known = trainer.callback_metrics.items()
        metrics = {name: value.detach().clone() for name, value in known}
        return {**metrics, "epoch": trainer.current_epoch, "step": trainer.global_step}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._finish(trainer)  # an older file is written first

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer)
        self._copied = None

    def _finish(self, trainer: Trainer) -> None:
        if self._background.wait():
            self._report_saved(trainer)

    def decide(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._background.ended():
            self._report_saved(trainer)
        if self._candidates is not None:
            # Step values differ between ranks; which checkpoints are best must not.
            candidates, self._candidates = trainer.strategy.broadcast(self._candidates), None
            candidates["step"] = trainer.global_step  # an accumulation window may have ended since
            self._decide(trainer, candidates)

    def commit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._writing:
            self._save(trainer)
        self.asked = self._background.busy

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If no save was due in this training, save its last state all the same."""
        if self.save_last and not self._ours and trainer.global_step and not trainer.fast_dev_run:
            candidates = trainer.strategy.broadcast(self._monitor_candidates(trainer))
            candidates["epoch"] -= 1  # the one that has just ended
            self._save_last_checkpoint(trainer, candidates)
            self.commit(trainer, pl_module)

    # -- what -------------------------------------------------------------------------------------

    def _decide(self, trainer: Trainer, candidates: dict[str, Any]) -> None:
        """Decide on names and scores before anything is written, so that every file of this commit contains them."""
        self._last_global_step_saved = candidates["step"]
        self._writing, self._to_remove = [], []
        # Before the first validation, a monitor that only validation logs is not missing.
        unranked = self.monitor not in (None, *candidates) and trainer.validation_ahead
        if self.save_top_k != 0 and not unranked:
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _save(self, trainer: Trainer) -> None:
        (first, *others), removed = self._writing, self._to_remove
        io = trainer.checkpoint_io
        own = overridden("_save_checkpoint", self, ModelCheckpoint)
        if (self.async_save or io.in_background) and not own:
            run = trainer._live()
            state = collect(run, self.save_weights_only)
            if trainer.is_global_zero or trainer.strategy.sharded:  # others write nothing
                self._copied = state = snapshot(state, into=self._copied)
            write = save_later(trainer.strategy, state, Path(first), io.save_checkpoint)

            def write_and_settle() -> None:
                write()
                self._publish(trainer, first, others, removed)

            self._background.start(write_and_settle)
            check_stored(run, first)
        else:
            self._save_checkpoint(trainer, first)
            if own and not trainer.strategy.broadcast(os.path.exists(first)):  # saved elsewhere
                while others:
                    self._save_checkpoint(trainer, others.pop())
            self._publish(trainer, first, others, removed)
            self._report_saved(trainer)
        self._writing, self._to_remove = [], []

    def _publish(self, trainer: Trainer, first: str, others: list[str], removed: list[str]) -> None:
        """Called when the state is safe on disk: give it its other names, and remove what it replaces."""
        if not trainer.is_global_zero:
            return
        for name in others:
            link_atomically(Path(first), Path(name), symbolic=self.save_last == "link")
        interrupted = os.path.join(os.path.dirname(first), INTERRUPTED)
        for old in [*removed, interrupted] if os.path.exists(interrupted) else removed:
            self._remove(trainer, old)

    def _report_saved(self, trainer: Trainer) -> None:
        if self.verbose:
            trainer.print(f"Saved {self.best_model_path or self.last_model_path}")
        for logger in trainer.loggers:
            logger.attempt("after_save_checkpoint", self)

    # -- under Lightning's names, since subclasses override these -----------------------------------

    _every_n_epochs, _every_n_train_steps = _alias("every_n_epochs"), _alias("every_n_train_steps")

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        """Whether this is not a time to save, or this step is saved already."""
        aside = trainer.fn != "fit" or trainer.sanity_checking or bool(trainer.fast_dev_run)
        return aside or trainer.global_step == self._last_global_step_saved

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        """Whether to save at the end of training epochs, and not after validation."""
        return bool(self._save_on_train_epoch_end)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Write the file."""
        trainer.save_checkpoint(filepath, self.save_weights_only)

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Delete the file."""
        trainer.checkpoint_io.remove_checkpoint(filepath)

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Decide whether this state is written, and which checkpoint it replaces."""
        if self.monitor is None:
            self._save_none_monitor_checkpoint(trainer, monitor_candidates)
        elif self.monitor in monitor_candidates:
            self._save_monitor_checkpoint(trainer, monitor_candidates)
        else:
            raise not_logged(self, self.monitor, monitor_candidates)

    def _save_none_monitor_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Any]
    ) -> None:
        previous = self.best_model_path if self.save_top_k == 1 else ""
        self.best_model_path = self._free_path(trainer, monitor_candidates, previous)
        self._write(monitor_candidates, self.best_model_path, previous)

    def _save_monitor_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Any]
    ) -> None:
        score = float(monitor_candidates[str(self.monitor)])
        score = self._worst if math.isnan(score) else score
        self.current_score = torch.tensor(score)
        current = torch.tensor(score, dtype=torch.float64)
        if self.check_monitor_top_k(trainer, current):
            self._update_best_and_save(current, trainer, monitor_candidates)

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        """Whether a checkpoint with this score is among those to keep."""
        if current is None or not self._full:
            return current is not None
        worst = self.best_k_models[self.kth_best_model_path]
        return bool(current < worst if self.mode == "min" else current > worst)

    @property
    def _full(self) -> bool:
        return self.save_top_k != -1 and len(self.best_k_models) >= self.save_top_k

    def _update_best_and_save(
        self, current: torch.Tensor, trainer: Trainer, monitor_candidates: dict[str, Any]
    ) -> None:
        """Add this state to the best ones, and drop the worst of them."""
        removed = self.kth_best_model_path if self._full else ""
        self.best_k_models.pop(removed, None)
        path = self._free_path(trainer, monitor_candidates, removed)
        self.best_k_models[path] = float(current)
        best = min if self.mode == "min" else max
        self.best_model_path = best(self.best_k_models, key=self.best_k_models.__getitem__)
        self.best_model_score = torch.tensor(self.best_k_models[self.best_model_path])
        self._write(monitor_candidates, path, removed)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        if self.save_last:
            previous = self.last_model_path
            name = self.CHECKPOINT_NAME_LAST
            self.last_model_path = self._free_path(trainer, monitor_candidates, previous, name)
            self._write(monitor_candidates, self.last_model_path, previous)

    def _write(self, chosen_by: dict[str, Any], path: str, in_place_of: str) -> None:
        self.asked = True  # also if a subclass decides in a hook of its own
        self._chosen_by, self._last_global_step_saved = chosen_by, chosen_by["step"]
        self._writing.append(path)
        self._ours.add(path)
        if in_place_of not in ("", path):
            self._to_remove.append(in_place_of)

    def _remove(self, trainer: Trainer, path: str) -> None:
        """Delete a file in our folder, except the one that the run was told to start from."""
        if self.dirpath is None or not trainer.is_global_zero:
            return
        if Path(self.dirpath) not in Path(path).parents:
            return
        chosen = trainer._live().chosen
        if chosen is not None and os.path.realpath(chosen) == path:
            return
        try:
            self._remove_checkpoint(trainer, path)
        except OSError as error:  # one file too many is no reason to stop training
            warn(f"ModelCheckpoint could not remove {path}: {error}.")

    # -- names ------------------------------------------------------------------------------------

    def format_checkpoint_name(
        self, metrics: dict[str, Any], filename: str | None = None, ver: int | None = None
    ) -> str:
        """The path of a checkpoint with these metrics."""
        join = self.CHECKPOINT_JOIN_CHAR
        pattern = filename or self.filename or f"{{epoch}}{join}{{step}}"
        name = self._fill(pattern, metrics)
        name = f"{name}{join}v{ver}" if ver is not None else name
        return os.path.join(self.dirpath or "", f"{name}{self.FILE_EXTENSION}")

    def _fill(self, pattern: str, metrics: dict[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            key, spec = match[1], match[2] or ""
            number = metrics.get(key, 0)
            number = number.item() if hasattr(number, "item") else number
            text = format(number, spec[1:])
            equals = self.CHECKPOINT_EQUALS_CHAR
            return f"{key}{equals}{text}" if self.auto_insert_metric_name else text

        return re.sub(r"\{([^:{}]+)(:[^{}]*)?\}", value, pattern)

    def _free_path(
        self, trainer: Trainer, candidates: dict[str, Any], ours: str, name: str | None = None
    ) -> str:
        """A free path, or `ours`. A resumed run overwrites what was written after its checkpoint."""
        path, version = self.format_checkpoint_name(candidates, name), self.STARTING_VERSION
        # Files that other callbacks are about to write do not exist yet.
        others = [one for one in trainer.checkpoint_callbacks if one is not self]
        soon = {file for one in others for file in getattr(one, "_writing", ())}
        while (
            self.enable_version_counter and path != ours and (path in soon or self._is_taken(path))
        ):
            path = self.format_checkpoint_name(candidates, name, version)
            version += 1
        # Ranks may see different files, also because some are just being written.
        return str(trainer.strategy.broadcast(path))

    def _is_taken(self, path: str) -> bool:
        if not os.path.exists(path):
            return False
        if self._resumed_at is None or path in self._ours or path in self.best_k_models:
            return True
        return is_checkpoint(Path(path)) and written(Path(path)) < self._resumed_at

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write the kept checkpoints and their scores to a YAML file."""
        target = Path(filepath or os.path.join(self.dirpath or "", "best_k_models.yaml"))
        target.write_text(yaml.safe_dump(dict(self.best_k_models)), encoding="utf-8")


def _older(name: str, than: str) -> bool:
    """Whether a file was written before another, or does not exist."""
    return not os.path.exists(name) or written(Path(name)) < written(Path(than))
