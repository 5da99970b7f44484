"""Starting the processes of a run on this machine, and ending them whatever happens.

A launcher sets the variables torchrun sets, so a process need not know what started it. The store through which all
processes connect lives in the launching process, on a port that the system picks: no two runs can collide.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scaffold_runtime.accelerators import interactive
from scaffold_runtime.errors import MisconfigurationException, RankFailed
from scaffold_runtime.seed import computing_alike
from scaffold_runtime.signals import CODES, Signals, code_of, leave
from scaffold_runtime.strategies.environments import OURS, Place, SLURMEnvironment, number_in
from scaffold_runtime.strategies.watch import ASKED, FAILED, GRACE, rank_failed

STARTED_IN = os.getcwd()  # relative paths on the command line mean this folder
CALL = "SCAFFOLD_CALL"  # variable: the prefix of store keys of one call
FINISH = 60.0  # seconds that other processes may take to end after this one
LET_GO = 0.1
POLL = 0.1


class Children:
    """The processes this one started. All end when it ends, or if one of them cannot be started."""

    def __init__(self, starting: Iterable[Any], first_rank: int) -> None:
        self._processes: list[Any] = []
        self._first = first_rank
        try:
            for process in starting:
                self._processes.append(process)
        except BaseException:  # out of memory, or Ctrl-C: those started would wait for the others
            self.end()
            raise

    def lost(self) -> str | None:
        """How a process failed; None if none did."""
        for rank, process in enumerate(self._processes, self._first):
            code = _exit_code(process)
            if code:
                return f"process {rank} {_describe_exit(code)}"
        return None

    def codes(self) -> set[int | None]:
        """Exit codes; None for processes that still run."""
        return {_exit_code(process) for process in self._processes}

    def wait(self, seconds: float, or_any: bool = False) -> bool:
        """Whether all end within this time; with `or_any`, False as soon as one has failed."""
        until = time.monotonic() + seconds
        while any(_exit_code(process) is None for process in self._processes):
            if time.monotonic() > until or (or_any and self.lost()):
                return False
            time.sleep(POLL)
        return True

    def end(self, seconds: float = GRACE / 2) -> None:
        """Send SIGTERM to those that still run and all they started, and SIGKILL after `seconds`."""
        for sign, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
            if self.wait(0):
                return
            self.send(sign)
            self.wait(patience)

    def send(self, sign: signal.Signals) -> None:
        for process in self._processes:
            if _exit_code(process) is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    try:
                        os.killpg(process.pid, sign)
                    except ProcessLookupError:  # too new to lead a process group
                        os.kill(process.pid, sign)


def _exit_code(process: Any) -> int | None:
    code = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
    return None if code is None else int(code)


def _describe_exit(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}."
    return f"ended with exit code {code}; what it printed is above."


def meeting_store(timeout: timedelta, host: bool) -> Any:
    """The store through which all processes connect; a `host` opens it. Its address goes into the environment."""
    address = os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    store = dist.TCPStore(  # type: ignore[attr-defined] # public, but not listed
        address,
        number_in("MASTER_PORT", below=2**16),
        is_master=host,
        timeout=timeout,
        wait_for_workers=False,
    )
    os.environ["MASTER_PORT"] = str(store.port)
    return store


def has_launcher() -> bool:
    """Whether a process of this package started this one, and reports why it ends."""
    return os.environ.get(OURS, str(os.getpid())) != str(os.getpid())


def variables(place: Place, call: str = "scaffold") -> dict[str, str]:
    """What torchrun would set for a process at this place."""
    return {
        "RANK": str(place.global_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "GROUP_RANK": str(place.node_rank),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher hosts the store, not rank 0
        "TORCHELASTIC_RESTART_COUNT": "0",
        CALL: call,
        OURS: str(os.getpid()),
    }


def places(devices: int, num_nodes: int, node_rank: int) -> list[Place]:
    """The places of all processes on this node.

    Raises:
        MisconfigurationException: if there are several nodes, and no address at which to connect.
    """
    missing = {"MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if num_nodes > 1 and missing:
        raise MisconfigurationException(
            f"num_nodes={num_nodes}, but no launcher started them. Start the script on each node with "
            f"MASTER_ADDR, MASTER_PORT and NODE_RANK set ({' and '.join(sorted(missing))} is missing), or use torchrun."
        )
    size = devices * num_nodes
    return [Place(size, node_rank * devices + i, i, node_rank) for i in range(devices)]


# -- re-running the script ------------------------------------------------------------------------


def check_script(here: list[Place]) -> None:
    """Refuse to run the script again where there is none.

    Raises:
        MisconfigurationException: in a notebook or an interactive session.
    """
    if len(here) > 1 and interactive():
        raise MisconfigurationException(
            "strategy='ddp' runs your script again for each device, and here is no script. "
            "In a notebook or an interactive session use strategy='ddp_notebook'."
        )


def start_scripts(here: list[Place]) -> Children:
    """Run this script again for every place but the first, which is that of this process."""
    command = [sys.executable, *sys.orig_argv[1:]]
    threads = {"OMP_NUM_THREADS": str(_threads(len(here)))}
    children = Children(
        (
            subprocess.Popen(
                command,
                cwd=STARTED_IN,
                env={**threads, **os.environ, **variables(place)},
                start_new_session=True,
            )
            for place in here[1:]
        ),
        here[0].global_rank + 1,
    )
    os.environ.update(variables(here[0]))
    return children


def end_with(children: Children, failed: Callable[[], bool], left: Callable[[], bool]) -> None:
    """When this program ends, end the children too, and report if one failed. If all exit because of a signal, give
    them time to do so."""

    def end_children() -> None:
        if left():
            children.wait(GRACE)
        if not failed() and children.wait(FINISH, or_any=True):
            lost = children.lost()
        else:
            lost = None if failed() else children.lost() or "a process did not end."
            children.end()
        if lost is not None:
            sys.stdout.flush()
            sys.stderr.write(f"{lost}\n")
            sys.stderr.flush()
            os._exit(1)

    atexit.register(end_children)


def _threads(processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // processes)


def die_with_launcher() -> None:
    """Have the kernel end this process when the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        parent = multiprocessing.parent_process()  # with "forkserver", `getppid` is the server
        alive = parent.is_alive() if parent else os.getppid() == int(os.environ[OURS])
        if not alive:  # it is gone already
            os._exit(1)


# -- new processes for one call -------------------------------------------------------------------

_calls = itertools.count()
_kept_store = functools.cache(meeting_store)


def run_in_processes(
    method: str,
    here: list[Place],
    call: Callable[[], Any],
    timeout: timedelta,
    obeys: bool = True,
) -> Any:
    """Run `call` in one new process per place, and return what the first place's call returned. A signal is passed on
    if the call `obeys`; otherwise the processes are ended.

    Raises:
        RankFailed: with the traceback of the process that failed first.
        MisconfigurationException: if processes cannot be started that way here.
    """
    _check_method(method)
    before, name = dict(os.environ), f"scaffold-{next(_calls)}"
    # Several machines use one address for all calls, since one machine may be a call ahead.
    store_of = _kept_store if here[0].world_size > len(here) else meeting_store
    store = store_of(timeout, host=here[0].global_rank == 0)
    folder = Path(tempfile.mkdtemp(prefix="scaffold-"))
    children = Children([], here[0].global_rank)
    try:
        children = _start(method, here, name, call, folder)
        signals = Signals(SLURMEnvironment())
        with signals if obeys else contextlib.nullcontext():
            while not children.wait(POLL, or_any=True) and not children.lost():
                if signals.received:
                    # The store may be gone with the first machine.
                    with contextlib.suppress(RuntimeError):
                        store.set(f"{name}/{ASKED}", str(signals.received))
        _exit_like(children)
        lost = children.lost()
        if lost is not None:
            children.wait(GRACE / 2)  # the others fail too, and may report a better reason
            raise _reason(store, name, folder, lost)
        if signals.received:  # after they had finished
            leave(signals.received)
        return torch.load(folder / "returned", weights_only=False)  # our own process wrote it
    finally:
        children.end()
        del store  # now: a traceback that refers to this frame would keep it alive
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _exit_like(children: Children) -> None:
    """Exit as the processes did, if they exited because of a signal."""
    if children.codes() & set(CODES):
        children.wait(FINISH)
    if children.codes() & set(CODES) and children.codes() <= set(CODES):
        leave(signal.SIGINT if 130 in children.codes() else signal.SIGTERM)


def _check_method(method: str) -> None:
    if method == "fork" and torch.cuda.is_initialized():
        raise MisconfigurationException(
            "processes cannot be forked after CUDA was used. Do not touch the GPU before trainer.fit(), "
            "or use strategy='ddp_spawn' or 'ddp'."
        )
    if method not in multiprocessing.get_all_start_methods():
        raise MisconfigurationException(
            f"this system cannot start processes by {method!r}. Use strategy='ddp'."
        )


def _start(
    method: str, here: list[Place], name: str, call: Callable[[], Any], folder: Path
) -> Children:
    context: Any = multiprocessing.get_context(method)
    call = computing_alike(call)
    works: list[Any] = [call] * len(here)
    if method != "fork":  # a file, and not an argument, which torch would put into shared memory
        works = [folder / f"call-{number}" for number in range(len(here))]
        save_call(call, works[0], f"ddp_{method}")
        for other in works[1:]:  # each process removes its own link, the last one the file
            os.link(works[0], other)
    # A forked process lacks the compute threads of this one, and would wait for them.
    alone = method == "fork" and torch.get_num_threads() > 1
    threads = 1 if alone else _threads(len(here))

    def starting() -> Iterator[Any]:
        for work, place in zip(works, here, strict=True):
            arguments = (work, variables(place, name), place is here[0], str(folder), threads)
            process = context.Process(target=_child_main, args=arguments)
            process.start()
            yield process

    gc.freeze()  # a forked process must not collect what belongs to threads it does not have
    try:
        return Children(starting(), here[0].global_rank)
    finally:
        gc.unfreeze()


def save_call(call: Callable[[], Any], path: Path, strategy: str) -> None:
    """Write a call for another process to make.

    Raises:
        MisconfigurationException: if something in it cannot be pickled.
    """
    try:
        torch.save(call, path)
    except Exception as error:
        raise MisconfigurationException(
            f"strategy={strategy!r} must send the trainer, the model and the data to new processes, and "
            f"something in them cannot be pickled ({error}). Define classes and functions at the top of a "
            "module, or use strategy='ddp' or 'ddp_fork'."
        ) from error


def _child_main(
    work: Any, environment: dict[str, str], returns: bool, folder: str, threads: int
) -> None:
    """The main function of a new process."""
    os.setsid()  # so that all it starts can be ended together with it
    os.environ.update(environment)
    die_with_launcher()
    torch.set_num_threads(threads)
    try:
        call = work if callable(work) else torch.load(work, weights_only=False)
        if not callable(work):
            work.unlink()  # it may be large, and a launcher that is killed removes nothing
        returned = call()
        if returns:
            torch.save(returned, Path(folder) / "returned")
    except BaseException as error:
        if code_of(error):
            sys.exit(code_of(error))
        Path(folder, f"error-{environment['RANK']}").write_bytes(traceback.format_exc().encode())
        sys.exit(1)
    finally:
        # A forked process exits without Python's shutdown, so it need not wait.
        leave_group(LET_GO if isinstance(work, Path) else 0)


def leave_group(seconds: float = LET_GO) -> None:
    """Destroy the process group when Python is about to shut down, with time for gloo's threads to release their last
    tensors: releasing one during the shutdown would abort the process."""
    if dist.is_initialized():
        time.sleep(seconds)
        dist.destroy_process_group()


def _reason(store: Any, name: str, folder: Path, lost: str) -> RankFailed:
    key = f"{name}/{FAILED}"
    with contextlib.suppress(RuntimeError):  # it may be gone with the first machine
        if store.check([key]):
            return rank_failed(store.get(key).decode())
    errors = sorted(folder.glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        return failed_in(errors[0])
    return RankFailed(lost)


def failed_in(file: Path) -> RankFailed:
    """The failure of a process that wrote why into the file `error-RANK`."""
    return rank_failed(f"{file.name.removeprefix('error-')}\n{file.read_text(encoding='utf-8')}")
