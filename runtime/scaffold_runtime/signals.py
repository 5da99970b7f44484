"""Signals: the first asks training to save and stop at its next commit, the second stops it at once. Several processes
agree on them, and leave together."""

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
STOP = 1  # what `should_stop` is among the numbers of signals: none that is watched has it


class Signals:
    """Watches while it is entered. Only the main thread can, and only the process that entered obeys:
    workers, which are forked with these handlers, leave a signal to it. A handler that was there before is called,
    too; one for the requeue signal stays alone, since it does that work."""

    def __init__(self, slurm: SLURMEnvironment) -> None:
        self._slurm = slurm
        self.received: int | None = None
        self.agreed = 0  # what one of several processes received, once all know
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (*WATCHED, self._slurm.requeue_signal):
                if number in WATCHED or (number and not callable(signal.getsignal(number))):
                    self._previous.setdefault(number, signal.signal(number, self._take))
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        # SIGTERM to a whole group ends data workers before a save can come: the last checkpoint stands.
        if self.received and isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            leave(self.received)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.received is not None:
            leave(number)
        self.received = number
        previous = self._previous.get(number)
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    def agree(self, run: Run, batch: float, asked: int = 0, due: bool = False) -> int:
        """Why all processes stop after this batch: a signal that one of them received, which is kept, or what one of
        them `asked`; 0 to go on. See `Strategy.agree_to_stop`."""
        agreed = run.trainer.strategy.agree_to_stop(batch, self.received or asked, due)
        if agreed > STOP:
            self.agreed = agreed
        return agreed

    def leave_if_asked(self, run: Run) -> None:
        """Obey the signal that this process received, or all know another one did."""
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
        # Gradients of half a window are not saved.
        if not (run.mid_window and run.trainer.strategy.divides):
            self.leave_if_asked(run)

    def leave_late(self, run: Run) -> None:
        """Training has ended, and is saved: leave where a signal came since, all of several processes together."""
        strategy, number = run.trainer.strategy, self.received or 0
        if run.several:  # the first says to all what it knows, so it must know what the others do
            number = max(strategy.gather(number))
            number = strategy.agree_to_stop(run.progress.batches, number, due=True)
        if number > STOP:
            leave(number, quietly=not run.trainer.is_global_zero)

    def obey(self, run: Run, number: int) -> NoReturn:
        """Save beside the other checkpoints, where there are any, put the job back into the queue, and leave.
        All processes do so at the same batch.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: with 143 for the others, and in processes beside the first.
        """
        trainer = run.trainer
        folders = [getattr(checkpoint, "dirpath", None) for checkpoint in run.checkpoints]
        folder = next((folder for folder in folders if folder), None)
        # Before training there is nothing new.
        if folder is not None and not trainer.sanity_checking:
            trainer.save_checkpoint(path := Path(folder) / INTERRUPTED)
            trainer.print(f'saved {os.path.relpath(path)}: ckpt_path="last" resumes from there')
        if number == self._slurm.requeue_signal and self._slurm.auto_requeue:
            trainer.strategy.first_does(requeue)
        leave(number, quietly=not trainer.is_global_zero)


def leave(number: int, quietly: bool = False) -> NoReturn:
    """End this process as a signal asks for, `quietly` without a traceback."""
    if number == signal.SIGINT and not quietly:
        raise KeyboardInterrupt
    raise SystemExit(CODES[number != signal.SIGINT])


def code_of(error: BaseException) -> int:
    """How a process exits that leaves with `error` at a signal; 0 if that is not why it leaves."""
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
