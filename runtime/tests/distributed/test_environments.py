"""Who started this process: each launcher's variables, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.strategies import SingleDeviceStrategy, started_elsewhere
from scaffold_runtime.strategies.environments import (
    OURS,
    ClusterEnvironment,
    LightningEnvironment,
    Place,
    SLURMEnvironment,
    complete_variables,
    find_node_rank,
    find_place,
    first_host,
)

Become = Callable[[Mapping[str, Any]], None]

STARTED = {
    "torchrun": ({"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "GROUP_RANK": 1}, Place(4, 3, 1, 1)),
    "PyTorchJob": ({"RANK": 3, "WORLD_SIZE": 4}, Place(4, 3, 1, 1)),
    "srun": (
        {"SLURM_PROCID": 2, "SLURM_NTASKS": 4, "SLURM_LOCALID": 0, "SLURM_NODEID": 1},
        Place(4, 2, 0, 1),
    ),
    "jsrun": (
        {"JSM_NAMESPACE_RANK": 1, "JSM_NAMESPACE_SIZE": 4, "JSM_NAMESPACE_LOCAL_RANK": 1},
        Place(4, 1, 1, 0),
    ),
    "mpirun": (
        {"OMPI_COMM_WORLD_RANK": 2, "OMPI_COMM_WORLD_SIZE": 4, "OMPI_COMM_WORLD_LOCAL_RANK": 0},
        Place(4, 2, 0, 1),
    ),
    "mpiexec": ({"PMI_RANK": 1, "PMI_SIZE": 4, "MPI_LOCALRANKID": 1}, Place(4, 1, 1, 0)),
}


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """Replace the variables of this process by others."""

    def become(variables: Mapping[str, Any]) -> None:
        monkeypatch.setattr(os, "environ", {k: str(v) for k, v in variables.items()})

    return become


@pytest.mark.parametrize("launcher", STARTED)
def test_places(launcher: str, become: Become) -> None:
    variables, place = STARTED[launcher]
    become(variables)

    assert find_place(2, 2) == place


def test_started_by_nobody(become: Become) -> None:
    become({"HOME": "/"})
    assert find_place(2, 1) is None
    assert find_node_rank(4) == 0
    become({"SLURM_PROCID": 0, "SLURM_NTASKS": 1})  # an interactive shell
    assert find_place(2, 1) is None
    become({"NODE_RANK": 3})
    assert find_node_rank(4) == 3
    assert find_node_rank(1) == 0  # a machine for itself, whatever the cluster says of others


@pytest.mark.parametrize("wrong", ["2", "-1", "one"])
def test_a_node_rank_that_is_none_is_an_error(wrong: str, become: Become) -> None:
    become({"NODE_RANK": wrong})
    with pytest.raises(MisconfigurationException, match=r"NODE_RANK.*number from 0 to 1"):
        find_node_rank(2)


def test_another_number_of_processes_is_an_error(become: Become) -> None:
    become({"RANK": 0, "WORLD_SIZE": 3})
    with pytest.raises(MisconfigurationException, match=r"torchrun started 3 process.*devices=2"):
        find_place(2, 1)
    become({"RANK": 0, "WORLD_SIZE": 1, OURS: 7})
    with pytest.raises(MisconfigurationException, match=r"an earlier Trainer.*started 1 process"):
        find_place(2, 1)


class Grid(ClusterEnvironment):
    """A launcher of one's own, as Lightning's documentation teaches to write one."""

    def world_size(self) -> int:
        return 4

    def global_rank(self) -> int:
        return 3

    @property
    def main_address(self) -> str:
        return "grid-1"

    @property
    def main_port(self) -> int:
        return 12


def test_an_environment_as_a_plugin(make_trainer: Any, become: Become) -> None:
    become(os.environ)
    trainer = make_trainer(devices=2, num_nodes=2, strategy="ddp", plugins=[Grid()])
    assert (trainer.global_rank, trainer.local_rank, trainer.node_rank) == (3, 1, 1)
    complete_variables(trainer.strategy.environment)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("grid-1", "12")


def test_lightning_environment_looks_past_the_cluster(become: Become) -> None:
    become({"SLURM_PROCID": 2, "SLURM_NTASKS": 4, "SLURM_LOCALID": 0, "SLURM_NODEID": 1})
    assert find_place(2, 2) == Place(4, 2, 0, 1)
    assert find_place(2, 2, LightningEnvironment()) is None
    assert find_place(2, 2, SLURMEnvironment()) == Place(4, 2, 0, 1)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node[07-09,12],other", "node07"),
        ("a[3,5]", "a3"),
        ("n1,n2", "n1"),
        ("solo", "solo"),
        ("batch 1 n1 8 n2 8", "n1"),
        ("n1 4 n2 4", "n1"),
    ],
)
def test_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_address_and_port_come_from_the_job(become: Become) -> None:
    srun = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}
    found = []
    for job, step in (("1234567", "0"), ("1234568", "0"), ("1234567", "1")):
        become({**srun, "SLURM_JOB_ID": job, "SLURM_STEP_ID": step})
        complete_variables()
        found.append((os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]))

    assert {address for address, _ in found} == {"n1"}
    assert len(set(found)) == 3
    become({**srun, "MASTER_ADDR": "x", "MASTER_PORT": "1"})
    complete_variables()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("x", "1")


def test_torchrun_says_how_many(become: Become) -> None:
    """`Trainer()` takes what torchrun started; after an elastic restart that may be fewer nodes."""
    become({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"})
    assert started_elsewhere("auto", 1) == (2, 3)
    assert started_elsewhere(2, 4) == (2, 3)
    become({})
    assert started_elsewhere("auto", 1) == ("auto", 1)


def test_the_trainer_knows_its_place(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(devices=2, num_nodes=2, strategy="ddp")

    places = (trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size)
    assert places == (3, 1, 1, 4)
    assert not trainer.is_global_zero


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "dpp"}, "Did you mean `ddp`"),
        ({"strategy": SingleDeviceStrategy(), "devices": 2}, "for one device, but there are 2"),
    ],
)
def test_refusals(make_trainer: Any, arguments: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer(**arguments)
