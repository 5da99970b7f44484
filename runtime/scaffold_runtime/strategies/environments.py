"""Who started this process, and which of how many it is: torchrun, SLURM, MPI, LSF, Kubeflow, or a person."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaffold_runtime.errors import MisconfigurationException

OURS = (
    "SCAFFOLD_LAUNCHED_BY"  # the process id of the launcher, in processes our own launcher started
)


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those of a run."""

    world_size: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Something that starts processes, and the variables by which it tells them who they are."""

    name: str
    rank: str
    size: str
    local_rank: str
    node_rank: str = ""
    hosts: str = ""
    job: str = ""


# The first whose rank and size are set is the one that started this process.
SCHEDULERS = (
    Scheduler("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"),
    Scheduler(
        "srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID",
        "SLURM_STEP_NODELIST", "SLURM_JOB_ID",
    ),
    Scheduler("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "",
              "LSB_MCPU_HOSTS", "LSB_JOBID"),
    Scheduler("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    Scheduler("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)  # fmt: skip


def find_place(devices: int, num_nodes: int, env: Mapping[str, str] | None = None) -> Place | None:
    """The place the environment gives this process; None where nobody started it as one of several.

    Raises:
        MisconfigurationException: if `devices * num_nodes` is not the number of processes started.
    """
    env = os.environ if env is None else env
    scheduler = _scheduler(env)
    if scheduler is None:
        return None
    size, rank = int(env[scheduler.size]), int(env[scheduler.rank])
    if size != devices * num_nodes:
        raise MisconfigurationException(
            f"{scheduler.name} started {size} process(es), but devices={devices} on num_nodes={num_nodes} need "
            f"{devices * num_nodes}. Start that many, or change `devices` and `num_nodes`."
        )
    local = int(env.get(scheduler.local_rank, rank % devices))
    return Place(size, rank, local, int(env.get(scheduler.node_rank, rank // devices)))


def _scheduler(env: Mapping[str, str]) -> Scheduler | None:
    for scheduler in SCHEDULERS:
        if scheduler.rank in env and scheduler.size in env:
            alone = scheduler.name == "srun" and env[scheduler.size] == "1"  # `srun --pty bash`
            return None if alone else scheduler
    return None


def started_elsewhere(
    devices: Any, num_nodes: int, env: Mapping[str, str] | None = None
) -> tuple[Any, int]:
    """Devices per node and nodes, where torchrun decided on them: after an elastic restart there may be
    another number of nodes."""
    env = os.environ if env is None else env
    if "TORCHELASTIC_RUN_ID" not in env or "LOCAL_WORLD_SIZE" not in env:
        return devices, num_nodes
    here = int(env["LOCAL_WORLD_SIZE"])
    return (here if devices == "auto" else devices), int(env["WORLD_SIZE"]) // here


def find_node_rank(env: Mapping[str, str] | None = None) -> int:
    """Which of the nodes this is, where one launcher was started by hand on each."""
    env = os.environ if env is None else env
    for name in ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID"):
        if name in env:
            return int(env[name])
    return 0


def complete_environment(env: dict[str, str] | os._Environ[str]) -> None:
    """Add what rendezvous needs, MASTER_ADDR and MASTER_PORT, from the scheduler's own variables."""
    scheduler = _scheduler(env)
    if scheduler is None:
        return
    if "MASTER_ADDR" not in env:
        hosts = env.get(scheduler.hosts) or env.get("SLURM_NODELIST", "")
        env["MASTER_ADDR"] = first_host(hosts) if hosts else "127.0.0.1"
    job = re.sub(r"\D", "", env.get(scheduler.job, ""))
    # Jobs that share a machine must not share a port; the number of the job tells them apart.
    env.setdefault("MASTER_PORT", str(15000 + int(job or 0) % 10000))


def first_host(hosts: str) -> str:
    """The first host of "node[07-09,12],other", "node1,node2", or "batch 1 node1 8 node2 8"."""
    words = hosts.split()
    if (
        len(words) > 1
    ):  # LSF: name and slots, the first one being the node the job was submitted from
        names = words[0::2]
        return names[1] if len(names) > 1 and words[1] == "1" else names[0]
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+))?", hosts)
    return f"{match[1]}{match[2] or ''}" if match else hosts
