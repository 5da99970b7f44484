"""Signals: the first asks training to save and stop at its next commit, the second stops it at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from scaffold_runtime.checkpoint.io import INTERRUPTED
from scaffold_runtime.strategies.environments import ClusterEnvironment, SLURMEnvironment

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

WATCHED = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill


class Signals:
    """Watches while it is entered. Only the main thread can, and only the process that entered obeys:
    workers, which are forked with these handlers, leave a signal to it."""

    def __init__(self, environment: ClusterEnvironment | None = None) -> None:
        slurm = environment if isinstance(environment, SLURMEnvironment) else SLURMEnvironment()
        self._slurm = slurm
        self.received: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (*WATCHED, self._slurm.requeue_signal):
                if number is not None:
                    self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.received is not None:
            _leave(number)
        self.received = number

    def obey(self, run: Run) -> NoReturn:
        """Save beside the other checkpoints, where there are any, put the job back into the queue, and leave.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: with 143 for the others.
        """
        assert self.received is not None
        folders = [getattr(checkpoint, "dirpath", None) for checkpoint in run.checkpoints]
        folder = next((folder for folder in folders if folder), None)
        if (
            folder is not None and not run.several
        ):  # all processes would have to save at the same step
            run.trainer.save_checkpoint(Path(folder) / INTERRUPTED)
        out_of_time = self.received == self._slurm.requeue_signal and self._slurm.auto_requeue
        if out_of_time and run.trainer.is_global_zero:
            requeue()
        _leave(self.received)


def _leave(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(143)


def requeue() -> None:
    """Under SLURM, ask for this job to be run again; it resumes with `ckpt_path="last"`."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    scontrol = shutil.which("scontrol")
    if job and scontrol:
        subprocess.run([scontrol, "requeue", job], check=False)
