"""Signals: the first makes training save and stop at its next commit, the second stops it at once. Several processes
agree on a signal, and exit together."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from scaffold_runtime.run import Run
    from scaffold_runtime.strategies.environments import SLURMEnvironment

WATCHED = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill
INTERRUPTED = "interrupted.ckpt"  # what a signal leaves behind, until a newer one is safe
CODES = (130, 143)  # how a process exits at a signal
STOP = 1  # stands for `should_stop` among signal numbers; no watched signal has this number


class Signals:
    """A context that watches for signals, if entered in the main thread. Data workers inherit its handlers by fork,
    and ignore signals. Previous handlers are called as well; one for the requeue signal is left in place of ours,
    since it requeues the job itself."""

    def __init__(self, slurm: SLURMEnvironment) -> None:
        self._slurm = slurm
        self.received: int | None = None
        self.agreed = 0  # the signal that some rank received, once all ranks know
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (*WATCHED, self._slurm.requeue_signal):
                if number in WATCHED or (number and not callable(signal.getsignal(number))):
                    self._previous.setdefault(number, signal.signal(number, self._handle))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        # SIGTERM to the whole process group ends data workers before we can save: keep the last checkpoint.
        if self.received and isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            leave(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.received is not None:
            leave(number)
        self.received = number
        previous = self._previous.get(number)
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    def agree(self, run: Run, batch: float, asked: int = 0, due: bool = False) -> int:
        """Why all ranks stop after this batch: a signal that one of them received (kept in `agreed`), or what one of
        them `asked`; 0 to continue. See `Strategy.agree_to_stop`."""
        agreed = run.trainer.strategy.agree_to_stop(batch, self.received or asked, due)
        if agreed > STOP:
            self.agreed = agreed
        return agreed

    def leave_if_asked(self, run: Run) -> None:
        """Obey the signal that this process received or, with several processes, that all agreed on."""
        number = self.agreed if run.several else self.received
        if number:
            self.obey(run, number)

    def leave_evaluation(self, run: Run, ended: bool = False) -> None:
        """Before each batch of an evaluation inside training, and at its end: obey a signal at once."""
        if run.fn != "fit":
            return
        if run.several and not self.agreed:
            self.agree(run, math.inf if ended else run.evaluated)
        run.evaluated += 1
        # Sharded gradients of an incomplete accumulation window cannot be saved.
        if not (run.mid_window and run.trainer.strategy.divides):
            self.leave_if_asked(run)

    def leave_late(self, run: Run) -> None:
        """After training has ended and is saved: exit if a signal arrived since, on all ranks together."""
        strategy, number = run.trainer.strategy, self.received or 0
        if run.several:  # rank 0 decides, so it must know what others received
            number = max(strategy.gather(number))
            number = strategy.agree_to_stop(run.progress.batches, number, due=True)
        if number > STOP:
            leave(number, quietly=not run.trainer.is_global_zero)

    def obey(self, run: Run, number: int) -> NoReturn:
        """Save next to the other checkpoints, if there are any, requeue the job, and exit. All ranks do so at the
        same batch.

        Raises:
            KeyboardInterrupt: for SIGINT, on rank 0.
            SystemExit: for SIGINT on other ranks, with 130; for other signals, with 143.
        """
        trainer = run.trainer
        folders = [getattr(checkpoint, "dirpath", None) for checkpoint in run.checkpoints]
        folder = next((folder for folder in folders if folder), None)
        # In the sanity check there is nothing new to save.
        if folder is not None and not trainer.sanity_checking:
            trainer.save_checkpoint(path := Path(folder) / INTERRUPTED)
            trainer.print(f'saved {os.path.relpath(path)}: ckpt_path="last" resumes from there')
        if number == self._slurm.requeue_signal and self._slurm.auto_requeue:
            trainer.strategy.first_does(requeue)
        leave(number, quietly=not trainer.is_global_zero)


def leave(number: int, quietly: bool = False) -> NoReturn:
    """End this process as the signal would; `quietly`: without a traceback."""
    if number == signal.SIGINT and not quietly:
        raise KeyboardInterrupt
    raise SystemExit(CODES[number != signal.SIGINT])


def code_of(error: BaseException) -> int:
    """The exit code, if `error` is how `leave` ends a process; else 0."""
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "code", 0)
    return code if code in CODES else 0


def requeue() -> None:
    """Under SLURM, ask for this job to be run again; it resumes with `ckpt_path="last"`."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    scontrol = shutil.which("scontrol")
    if job and scontrol:
        subprocess.run([scontrol, "requeue", job], check=False)
