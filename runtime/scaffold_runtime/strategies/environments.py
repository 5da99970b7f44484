"""What launched this process (torchrun, SLURM, MPI, LSF, Kubeflow, or nothing), and which rank it has."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import Any

from scaffold_runtime.errors import MisconfigurationException

OURS = "SCAFFOLD_LAUNCHED_BY"  # variable in processes that our launcher started: its process id


@dataclass(frozen=True, slots=True)
class Place:
    """The rank of one process among those of a run."""

    world_size: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0


class ClusterEnvironment:
    """What launched the processes of a run, and how each of them learns its rank.

    The trainer detects the launchers below by itself. For a launcher of your own, subclass this,
    override its methods (or name its variables), and pass it: `Trainer(plugins=MyEnvironment())`.
    """

    starter: str = "your ClusterEnvironment"  # for messages
    rank: str = ""  # the names of its environment variables
    size: str = ""
    local: str = ""
    node: str = ""
    hosts: tuple[str, ...] = ()
    job: str = ""
    step: str = ""  # a job may run several at the same time

    @classmethod
    def detect(cls) -> bool:
        """Whether this launcher started this process."""
        return cls.rank in os.environ and cls.size in os.environ

    @property
    def creates_processes_externally(self) -> bool:
        """Whether all processes exist already; if not, the trainer starts those that are missing."""
        return True

    @property
    def main_address(self) -> str:
        """The address of rank 0's machine."""
        hosts = next(filter(None, map(os.environ.get, self.hosts)), None)
        return first_host(hosts) if hosts else "127.0.0.1"

    @property
    def main_port(self) -> int:
        """The port there at which all processes connect."""
        # From the ids of job and step: those that share a machine must not share a port.
        job, step = (
            int(re.sub(r"\D", "", os.environ.get(n, "")) or 0) for n in (self.job, self.step)
        )
        return 15000 + (job + 101 * step) % 10000

    def world_size(self) -> int:
        """How many processes there are."""
        return int(os.environ[self.size])

    def global_rank(self) -> int:
        """The rank of this process among all."""
        return int(os.environ[self.rank])

    def local_rank(self) -> int | None:
        """The rank of this process on its machine; None to derive it from the number of devices."""
        return int(os.environ[self.local]) if self.local in os.environ else None

    def node_rank(self) -> int | None:
        """The rank of this machine; None to derive it from the number of devices."""
        return int(os.environ[self.node]) if self.node in os.environ else None


class TorchElasticEnvironment(ClusterEnvironment):
    """torchrun."""

    starter, rank, size, local, node = "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"


class KubeflowEnvironment(TorchElasticEnvironment):
    """A PyTorchJob of Kubeflow, which sets torchrun's variables."""

    starter = "the PyTorchJob"


class LightningEnvironment(TorchElasticEnvironment):
    """No launcher: the trainer starts the processes itself, whatever the cluster has set. To use several machines,
    start the script on each with NODE_RANK, MASTER_ADDR and MASTER_PORT set."""

    @property
    def creates_processes_externally(self) -> bool:
        return OURS in os.environ


class SLURMEnvironment(ClusterEnvironment):
    """srun.

    Args:
        auto_requeue: requeue the job when SLURM signals that its time limit is near.
        requeue_signal: that signal; SIGUSR1 if None.
    """

    starter, rank, size = "srun", "SLURM_PROCID", "SLURM_NTASKS"
    local, node = "SLURM_LOCALID", "SLURM_NODEID"
    job, step = "SLURM_JOB_ID", "SLURM_STEP_ID"
    hosts = ("SLURM_STEP_NODELIST", "SLURM_NODELIST")

    def __init__(self, auto_requeue: bool = True, requeue_signal: int | None = None) -> None:
        usual = getattr(signal, "SIGUSR1", None)
        self.auto_requeue, self.requeue_signal = auto_requeue, requeue_signal or usual

    @classmethod
    def detect(cls) -> bool:
        return super().detect() and os.environ[cls.size] != "1"  # `srun --pty bash`


def slurm_of(environment: ClusterEnvironment | None) -> SLURMEnvironment:
    """The environment if it is SLURM's, else SLURM's defaults for signals."""
    return environment if isinstance(environment, SLURMEnvironment) else SLURMEnvironment()


class LSFEnvironment(ClusterEnvironment):
    """jsrun."""

    starter, rank, size = "jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"
    local, job, hosts = "JSM_NAMESPACE_LOCAL_RANK", "LSB_JOBID", ("LSB_MCPU_HOSTS",)


class MPIEnvironment(ClusterEnvironment):
    """mpirun of Open MPI."""

    starter, rank, size = "mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"
    local = "OMPI_COMM_WORLD_LOCAL_RANK"


class HydraEnvironment(ClusterEnvironment):
    """mpiexec of MPICH and Intel MPI."""

    starter, rank, size, local = "mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"


KNOWN = (
    TorchElasticEnvironment,
    SLURMEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    HydraEnvironment,
)


def detected() -> ClusterEnvironment | None:
    """What launched this process; None if it was started by hand."""
    return next((kind() for kind in KNOWN if kind.detect()), None)


def find_place(
    devices: int, num_nodes: int, environment: ClusterEnvironment | None = None
) -> Place | None:
    """The place that the environment gives this process; None if no launcher started it.

    Raises:
        MisconfigurationException: if `devices * num_nodes` is not the number of processes started.
    """
    environment = environment or detected()
    if environment is None or not environment.creates_processes_externally:
        return None
    size, rank = environment.world_size(), environment.global_rank()
    if size != devices * num_nodes:
        first = "an earlier Trainer of this script" if OURS in os.environ else environment.starter
        raise MisconfigurationException(
            f"{first} started {size} process(es), but devices={devices} on num_nodes={num_nodes} "
            f"need {devices * num_nodes}. Start that many, or change `devices` and `num_nodes`."
        )
    local, node = environment.local_rank(), environment.node_rank()
    return Place(
        size,
        rank,
        rank % devices if local is None else local,
        rank // devices if node is None else node,
    )


def started_elsewhere(devices: Any, num_nodes: int) -> tuple[Any, int]:
    """Devices per node, and nodes; as torchrun decided, if it runs: after an elastic restart their number may
    differ."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or "LOCAL_WORLD_SIZE" not in os.environ:
        return devices, num_nodes
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return (here if devices == "auto" else devices), int(os.environ["WORLD_SIZE"]) // here


def find_node_rank(num_nodes: int) -> int:
    """The rank of this node, if the script was started by hand on each."""
    named = filter(os.environ.get, ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID"))
    return number_in(next(named, "NODE_RANK"), num_nodes) if num_nodes > 1 else 0


def number_in(variable: str, below: int) -> int:
    """The number in an environment variable; 0 if it is not set.

    Raises:
        MisconfigurationException: if it is no number from 0 to `below` - 1.
    """
    text = os.environ.get(variable) or "0"
    if not text.isdecimal() or int(text) >= below:
        raise MisconfigurationException(
            f"the variable {variable} is {text!r}: it must be a number from 0 to {below - 1}."
        )
    return int(text)


def complete_variables(environment: ClusterEnvironment | None = None) -> None:
    """Add what rendezvous needs, MASTER_ADDR and MASTER_PORT."""
    environment = environment or detected()
    if environment is not None:
        os.environ.setdefault("MASTER_ADDR", environment.main_address)
        os.environ.setdefault("MASTER_PORT", str(environment.main_port))


def first_host(hosts: str) -> str:
    """The first host of "node[07-09,12],other", "node1,node2", or "batch 1 node1 8 node2 8"."""
    words = hosts.split()
    # LSF: name and slots, the first one being the node the job was submitted from.
    if len(words) > 1:
        names = words[0::2]
        return names[1] if len(names) > 1 and words[1] == "1" else names[0]
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+))?", hosts)
    return f"{match[1]}{match[2] or ''}" if match else hosts
