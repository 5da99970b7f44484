"""Finding checkpoints: what "best", "last" and a path mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaffold_runtime.checkpoint.io import is_checkpoint, written
from scaffold_runtime.errors import CheckpointError, check_local, warn
from scaffold_runtime.hooks import Checkpoint, overridden

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer

JOBS = ".slurm-jobs"  # beside checkpoints: ids of the SLURM jobs that saved there


def remember_job(folder: Path) -> None:
    """Under SLURM, note that this job saves into `folder`: when it is requeued, it resumes from there.

    Raises:
        CheckpointError: if the folder cannot be written to.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or job in _jobs(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / JOBS).open("a", encoding="utf-8") as file:
            file.write(f"{job}\n")
    except OSError as error:
        raise CheckpointError(f"cannot write into the folder {folder}: {error}.") from error


def _jobs(folder: Path) -> list[str]:
    return (folder / JOBS).read_text(encoding="utf-8").split() if (folder / JOBS).is_file() else []


def find_checkpoint(trainer: Trainer, wanted: str) -> Path:
    """Turn a `ckpt_path` argument into a file.

    "best" is the best file of this trainer's ModelCheckpoint, or of the newest run in the same place;
    "last" is the newest file (in a requeued SLURM job, the newest in a folder where it saved); anything else is a
    path. If a logger was given a version, only that run is searched.

    Raises:
        CheckpointError: if there is no such file.
    """
    if wanted in ("best", "last"):
        found = _best(trainer) if wanted == "best" else _last(trainer)
        if found is None:
            folder = trainer.log_dir if _version_is_given(trainer) else trainer.runs_dir
            raise CheckpointError(
                f"ckpt_path={wanted!r}: no checkpoint was found under {folder}. "
                "Train first, or give the path of a file."
            )
        return found
    check_local("ckpt_path", wanted)
    path = Path(wanted)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path} (ckpt_path={wanted!r}).")
    return path


def _best(trainer: Trainer) -> Path | None:
    best = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    known = next(filter(None, best), "")
    if known and is_checkpoint(Path(known)):
        return Path(known)
    if trainer.global_step and not known and not trainer.fast_dev_run:
        raise CheckpointError(
            'ckpt_path="best": this trainer has trained and kept no best checkpoint. Give it a ModelCheckpoint with '
            "`save_top_k` of at least 1, or give the path of a file."
        )
    newest = _last(trainer)
    if newest is None:
        return None
    for state in trainer.checkpoint_io.load_checkpoint(newest).get("callbacks", {}).values():
        name = state.get("best_model_path") if isinstance(state, dict) else None
        if name:
            for candidate in (Path(name), newest.parent / Path(name).name):
                if is_checkpoint(candidate):
                    return candidate
    return newest


def _last(trainer: Trainer) -> Path | None:
    return next(iter(_newest_first(trainer)), None)


def _newest_first(trainer: Trainer) -> list[Path]:
    """The checkpoints in the folders that callbacks were given, and in a run folder if a callback saves there or
    the given folders hold none."""
    callbacks = [c for c in trainer.checkpoint_callbacks if overridden("commit", c, Checkpoint)]
    given = [Path(c.dirpath) for c in callbacks if getattr(c, "dirpath", None)]
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    again = os.environ.get("SLURM_JOB_ID") if restarted else None

    def found(folders: Iterable[Path]) -> Iterator[list[Path]]:
        for folder in folders:
            files = _checkpoints(folder, folder not in given)
            if files and (again is None or again in _jobs(folder)):
                yield files

    files = [file for folder in found(dict.fromkeys(given)) for file in folder]
    if not files or len(given) < len(callbacks):
        files += next(found(_run_folders(trainer)), [])
    newest = sorted(files, key=lambda path: (written(path), path.name.startswith("last")))
    return newest[::-1]


def _checkpoints(folder: Path, of_run: bool) -> list[Path]:
    """The checkpoints in a folder; in a run's `checkpoints` also one level below (metric names with a slash)."""
    files = [*folder.glob("*.ckpt")]
    if of_run and folder.name == "checkpoints":
        files += [file for file in folder.glob("*/*.ckpt") if file.parent not in files]
    return [file for file in files if is_checkpoint(file)]


def _version_is_given(trainer: Trainer) -> bool:
    """Whether the logger that names the run folder was given its version."""
    named = next((logger for logger in trainer.loggers if logger.root_dir), trainer.logger)
    return named is not None and named.told


def _run_folders(trainer: Trainer) -> list[Path]:
    """Checkpoint folders, newest run first: those of this run if its version was given, else of all beside it."""
    alone = _version_is_given(trainer)  # another run may be another fold of the data
    root = Path(trainer.log_dir if alone else trainer.runs_dir)
    others = [] if alone else root.glob("*/checkpoints")
    folders = [*others, root / "checkpoints", root]
    found = {folder: _checkpoints(folder, True) for folder in folders}
    newest = {folder: max(map(written, files)) for folder, files in found.items() if files}
    return sorted(newest, key=newest.__getitem__, reverse=True)


def read_newest_good(trainer: Trainer, resumes: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, with its content; None if there are none yet.

    Damaged ones, and those saved when training failed, are skipped with one warning; weights-only ones are skipped
    silently if training `resumes`. A readable one of these is returned if there is nothing better.

    Raises:
        CheckpointError: if there are checkpoints and none can be read.
    """
    files = _newest_first(trainer)
    if not files:
        return None
    reasons: list[str] = []
    passed: dict[str, tuple[Path, dict[str, Any]]] = {}  # newest of each kind, to save memory
    for file in files:
        try:
            checkpoint = trainer.checkpoint_io.load_checkpoint(file)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if resumes and checkpoint.get("optimizer_states") is None:
            passed.setdefault("bare", (file, checkpoint))
        elif checkpoint.get("torn"):
            passed.setdefault("torn", (file, checkpoint))
            reasons.append(f"{file} was saved when training failed, in the middle of a step.")
        else:
            if reasons:
                warn(f"{' '.join(reasons)} Resuming from {file}.")
            return file, checkpoint
    if passed:
        return passed.get("torn") or passed["bare"]
    raise CheckpointError(f"no checkpoint can be read: {' '.join(reasons)}")
