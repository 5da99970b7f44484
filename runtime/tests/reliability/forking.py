"""Run a function in a forked process of its own group, with a hard time limit. torch is imported once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

torch.set_num_threads(1)
import torch._dynamo  # noqa: E402 - optimizers import it at their first step: once here, not in each child

KILLED = -signal.SIGKILL


def start(function: Callable[[], Any]) -> tuple[int, BinaryIO]:
    """Fork: the child leads a new process group and ends with the function. Gives (pid, its answer)."""
    sys.stdout.flush()
    answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `finish`
    pid = os.fork()
    if pid == 0:
        _child(function, answer)
    return pid, answer


def _child(function: Callable[[], Any], answer: Any) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        # As in a process that multiprocessing forks; the server that forks for its parent is not its own.
        multiprocessing.set_start_method("fork", force=True)
        result = (True, function())
        code = 0
    except SystemExit as error:
        result, code = (False, repr(error)), int(error.code or 0)
    except KeyboardInterrupt as error:
        result, code = (False, repr(error)), 130
    except BaseException:
        result = (False, traceback.format_exc())
    pickle.dump(result, answer)
    answer.flush()
    os._exit(code)


def finish(pid: int, answer: BinaryIO, limit: float = 30) -> tuple[int, Any]:
    """Wait for the end: (exit code, or minus the signal; whether it was well, and what the function gave)."""
    end = time.monotonic() + limit
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.002)
    kill_group(pid)  # workers it may have left behind, too
    if ended[0] == 0:
        os.waitpid(pid, 0)
        answer.close()
        raise TimeoutError(f"the process took longer than {limit} s")
    with answer:
        answer.seek(0)
        data = answer.read()
    code = os.waitstatus_to_exitcode(ended[1])
    # A kill may have come while it answered: then the answer is torn.
    return code, pickle.loads(data) if data and code >= 0 else (False, None)


def kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def forked(function: Callable[[], Any], limit: float = 60) -> Any:
    """What the function gives, run in a process of its own; its failure is ours."""
    code, (good, result) = finish(*start(function), limit)
    if not good:
        raise AssertionError(f"exit code {code}\n{result}")
    return result


def script(folder: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    """`python train.py` with `words` in `folder`, without the seconds that importing torch takes: code, out, err."""

    def main() -> None:
        os.chdir(folder)
        os.environ.update(variables)
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        sys.argv, sys.path[0:0] = ["train.py", *words], [str(folder)]
        warnings.resetwarnings()
        try:
            runpy.run_path("train.py", run_name="__main__")
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code, _ = finish(*start(main), limit=100)
        for file in (out, err):
            file.seek(0)
        return code, out.read().decode(), err.read().decode()
