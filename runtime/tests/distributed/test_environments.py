"""Who started this process: each launcher's variables, and what is made of them."""

from __future__ import annotations

from typing import Any

import pytest

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.strategies import SingleDeviceStrategy, started_elsewhere
from scaffold_runtime.strategies.environments import (
    Place,
    complete_environment,
    find_node_rank,
    find_place,
    first_host,
)

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


@pytest.mark.parametrize("launcher", STARTED)
def test_places(launcher: str) -> None:
    variables, place = STARTED[launcher]

    assert find_place(2, 2, {name: str(value) for name, value in variables.items()}) == place


def test_started_by_nobody() -> None:
    assert find_place(2, 1, {"HOME": "/"}) is None
    assert (
        find_place(2, 1, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    )  # an interactive shell
    assert find_node_rank({}) == 0
    assert find_node_rank({"NODE_RANK": "3"}) == 3


def test_another_number_of_processes_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"torchrun started 3 process.*devices=2"):
        find_place(2, 1, {"RANK": "0", "WORLD_SIZE": "3"})


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


def test_address_and_port_come_from_the_job() -> None:
    srun = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}
    first, second = ({**srun, "SLURM_JOB_ID": job} for job in ("1234567", "1234568"))
    complete_environment(first)
    complete_environment(second)

    assert first["MASTER_ADDR"] == "n1"
    assert first["MASTER_PORT"] != second["MASTER_PORT"]
    given = {**srun, "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    complete_environment(given)
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("x", "1")


def test_torchrun_says_how_many() -> None:
    """`Trainer()` takes what torchrun started; after an elastic restart that may be fewer nodes."""
    elastic = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}

    assert started_elsewhere("auto", 1, elastic) == (2, 3)
    assert started_elsewhere(2, 4, elastic) == (2, 3)
    assert started_elsewhere("auto", 1, {}) == ("auto", 1)


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
