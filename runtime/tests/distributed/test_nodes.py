"""Several machines: two network namespaces joined by a cable, or two processes that SLURM's variables place."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed as dist

from scaffold_runtime.strategies.meeting import meet

from .test_ends import SCRIPT, finish

ADDRESSES = ("10.77.0.1", "10.77.0.2")
KILL = """
        if batch_idx == 5 and trainer.global_rank == 1 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def script(folder: Path, body: str = "pass") -> None:
    text = SCRIPT.replace("devices=2", "devices=1, num_nodes=2").replace("EPOCHS", "2")
    (folder / "train.py").write_text(
        text.replace("        BODY", body.strip("\n") if "\n" in body else f"        {body}")
    )


def start(folder: Path, command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        start_new_session=True,
    )


def ended(processes: list[subprocess.Popen[str]], folder: Path, seconds: float) -> list[str]:
    """What each printed when it was done; both must end well, and soon."""
    lines = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            assert process.returncode == 0, err
            lines += [line for line in out.splitlines() if line.startswith("done")]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        finish(processes[0], folder, 1)
    return sorted(lines)


def alike(lines: list[str]) -> None:
    """Both processes took all steps and ended with the same weights."""
    assert [line.split()[1:3] for line in lines] == [["0", "16"], ["1", "16"]]
    assert len({line.split()[3] for line in lines}) == 1


@pytest.fixture
def machines() -> Iterator[tuple[list[str], list[str]]]:
    """What to put before a command so that it runs on the first, or on the second machine."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` command to make network namespaces with")
    unique = uuid.uuid4().hex[:6]
    names, ends = [f"ns{unique}{i}" for i in (1, 2)], [f"v{unique}{i}" for i in (1, 2)]
    try:
        for words in (
            *(f"netns add {name}" for name in names),
            f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}",
            *(
                f"-n {name} {what}"
                for name, end, address in zip(names, ends, ADDRESSES, strict=True)
                for what in (
                    f"addr add {address}/24 dev {end}",
                    f"link set {end} up",
                    "link set lo up",
                )
            ),
        ):
            done = subprocess.run(["ip", *words.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(
                    f"network namespaces cannot be made here: `ip {words}`: {done.stderr.strip()}"
                )
        inside = [
            ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}"]
            for name, end in zip(names, ends, strict=True)
        ]
        yield inside[0], inside[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_machines_under_torchrun(tmp_path: Path, machines: tuple[list[str], list[str]]) -> None:
    """They find each other, lose a process, start anew, and go on from the last checkpoint."""
    script(tmp_path, KILL)
    processes = [
        start(
            tmp_path,
            [
                *inside,
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--nproc-per-node", "1", "--max-restarts", "2", "--monitor-interval", "1"),
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400"),
                *("--rdzv-conf", f"is_host={str(node == 0).lower()}"),
                *("--local-addr", ADDRESSES[node], "train.py"),
            ],
        )
        for node, inside in enumerate(machines)
    ]

    alike(ended(processes, tmp_path, 150))
    assert (tmp_path / "killed").exists()


def slurm(node: int, hosts: str, job: int) -> dict[str, str]:
    """What srun sets for one task on each of two nodes."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_PROCID": str(node),
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(node),
        "SLURM_NNODES": "2",
        "SLURM_STEP_NODELIST": hosts,
    }


@pytest.mark.slow
def test_two_machines_under_slurm(tmp_path: Path, machines: tuple[list[str], list[str]]) -> None:
    script(tmp_path)
    job = random.randrange(10**6)
    processes = [
        start(tmp_path, [*inside, sys.executable, "train.py"], **slurm(node, "10.77.0.[1-2]", job))
        for node, inside in enumerate(machines)
    ]

    alike(ended(processes, tmp_path, 100))
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


AGAIN = """
again = Trainer(accelerator="cpu", devices=1, num_nodes=2, max_epochs=1, logger=False, enable_checkpointing=False,
                callbacks=Slow(), enable_progress_bar=False, enable_model_summary=False,
                strategy=DDPStrategy(timeout=timedelta(seconds=15)))
for _ in range(2):
    again.fit(model, DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4))
weight ="""
SLOW = """
class Slow(Callback):
    def state_dict(self):  # asked for when a call is over: one machine is ahead of the other
        time.sleep(0 if os.environ["NODE_RANK"] == "1" else 0.7)
        return {}

class Act("""


def by_hand(folder: Path, method: str, body: str = "pass") -> list[subprocess.Popen[str]]:
    """A person starts the script on each machine; it trains several times."""
    script(folder, body)
    text = (folder / "train.py").read_text()
    text = text.replace("\nweight =", AGAIN).replace("\nclass Act(", SLOW)
    text = text.replace("DDPStrategy(", f"DDPStrategy(start_method={method!r}, ")
    (folder / "train.py").write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(folder, [sys.executable, "train.py"], **where, NODE_RANK=str(node)) for node in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["popen", "fork"])
def test_two_machines_by_hand(tmp_path: Path, method: str) -> None:
    """Each script gets what was trained, one call after another, whichever machine it is on."""
    alike(ended(by_hand(tmp_path, method), tmp_path, 100))
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_each_machine_says_why_processes_for_one_call_failed(tmp_path: Path, rank: int) -> None:
    failing = f"if trainer.global_rank == {rank}: raise ValueError('broken here')"
    processes = by_hand(tmp_path, "fork", failing)
    for process in processes:
        process.wait(60)
    errors = [finish(process, tmp_path, 60)[1] for process in processes]

    assert [process.returncode for process in processes] == [1, 1]
    assert all("RankFailed" in error for error in errors)
    assert errors[rank].rstrip().endswith("broken here")


SRUN = """#!{python}
import os, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--")]
tasks = [subprocess.Popen(words, env={{**os.environ, "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2",
    "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost"}}) for rank in (0, 1)]
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
def test_srun_starts_all(tmp_path: Path) -> None:
    """A stand-in for srun starts two tasks on this machine; the script starts none itself."""
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable))
    (tmp_path / "srun").chmod(0o755)
    script(tmp_path)
    text = (tmp_path / "train.py").read_text().replace("devices=1, num_nodes=2", "devices=2")
    (tmp_path / "train.py").write_text(text)
    command = ["./srun", "--ntasks-per-node=2", sys.executable, "train.py"]
    job = str(random.randrange(10**6))

    lines = ended([start(tmp_path, command, SLURM_JOB_ID=job)], tmp_path, 100)

    alike(lines)
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def test_what_an_earlier_attempt_left_behind_is_not_met() -> None:
    """torchrun's store keeps the words of processes that are gone, and of names that were agreed then."""
    store, timeout = dist.HashStore(), timedelta(seconds=10)
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            met = {pool.submit(meet, store, rank, 3, timeout) for rank in (2, 1, 0)}
            (name,) = {each.result() for each in met}
        names.append(name)
    assert len(set(names)) == 3
    with pytest.raises(dist.DistStoreError, match="did not connect"):
        meet(store, 1, 3, timedelta(seconds=0.2))
