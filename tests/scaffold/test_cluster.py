"""Cluster extras in use: SLURM with stand-ins for srun and scontrol, the others for real in two processes."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parent / "cluster"
BIN = Path(sys.executable).parent
WITNESS = """
import os
import signal
import time
from pathlib import Path

from scaffold_runtime import Callback


class Witness(Callback):
    def on_train_batch_end(self, trainer, *_):
        with Path(f"rank{trainer.global_rank}.txt").open("a") as out:
            out.write(f"{trainer.world_size} {trainer.global_step}\\n")
        time.sleep(float(os.environ.get("SLOW", 0)))
        kill = os.environ.get("KILL") == os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        if kill and trainer.global_rank == 1 and trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def project(scaffold, monkeypatch):
    def make(extra: str) -> Path:
        assert scaffold("new", "my-exp", "--task", "blank", "--no-git").code == 0
        monkeypatch.chdir("my-exp")
        assert scaffold("add", "extra", extra).code == 0
        Path("my_exp/witness.py").write_text(WITNESS)
        Path("configs/callbacks/witness.yaml").write_text("class_path: my_exp.witness.Witness\n")
        return Path.cwd()

    return make


def environment(**more: object) -> dict[str, str]:
    path = f"{CLUSTER}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
    base = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**base, **{key: str(value) for key, value in more.items()}}


def start(words: list[str], **more: object) -> subprocess.Popen[str]:
    with Path("out.txt").open("a") as out:
        return subprocess.Popen(
            words,
            env=environment(**more),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(*started: subprocess.Popen[str]) -> list[int]:
    """Exit codes of the processes; one that hangs is killed with its children, and its output is shown."""
    try:
        return [each.wait(timeout=150) for each in started]
    except subprocess.TimeoutExpired:
        pytest.fail(f"not ended after 150 s:\n{Path('out.txt').read_text()[-6000:]}")
    finally:
        for each in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def seen(rank: int) -> list[tuple[int, int]]:
    """World size and step of each batch that this rank trained on."""
    path = Path(f"rank{rank}.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(size), int(step)) for size, step in map(str.split, lines)]


@pytest.mark.parametrize(("extra", "script"), [("slurm", "slurm"), ("torchrun", "torchrun.sh")])
def test_shellcheck_finds_nothing(project, extra, script):
    project(extra)
    done = subprocess.run(
        [BIN / "shellcheck", f"scripts/train.{script}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def requested(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script, re.MULTILINE))


def submit(restarts: int, **more: object) -> subprocess.Popen[str]:
    """What sbatch would do with the script: read what it requests, set variables, run it."""
    asked = requested(Path("scripts/train.slurm").read_text())
    tasks = int(asked["ntasks-per-node"])
    return start(
        ["bash", "scripts/train.slurm", "--trainer.max_epochs=6"],
        SLURM_JOB_ID=77,
        SLURM_NNODES=asked["nodes"],
        SLURM_NTASKS_PER_NODE=tasks,
        SLURM_NTASKS=tasks * int(asked["nodes"]),
        SLURM_CPUS_PER_TASK=asked["cpus-per-task"],
        SCONTROL_LOG="scontrol.txt",
        **({"SLURM_RESTART_COUNT": restarts} if restarts else {}),
        **more,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tasks", "sent"), [(1, "TERM"), (2, "USR1")])
def test_slurm_requests_launches_requeues_and_resumes(project, tasks, sent):
    """USR1 comes before the time limit: training requeues itself. TERM comes when SLURM requeues the job."""
    project("slurm")
    path = Path("scripts/train.slurm")
    path.write_text(path.read_text().replace("per-node=1", f"per-node={tasks}"))
    asked = requested(path.read_text())
    assert asked["signal"] == "USR1@120"  # to the tasks; with B: it would reach the shell alone
    assert "requeue" in asked
    assert Path(asked["output"]).parent.is_dir()  # SLURM does not make it, and fails without a word
    job = submit(0, SLOW=0.05)
    deadline = time.monotonic() + 120
    while len(seen(tasks - 1)) < 25 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    srun = int(subprocess.check_output(["pgrep", "-P", str(job.pid), "-f", "srun"]).split()[0])
    os.kill(srun, getattr(signal, f"SIG{sent}"))
    assert end(job) == [143], Path("out.txt").read_text()[-3000:]
    queued = Path("scontrol.txt").read_text() if Path("scontrol.txt").exists() else ""
    assert queued == ("requeue 77\n" if sent == "USR1" else "")
    stopped = seen(0)[-1][1]

    assert end(submit(1)) == [0], Path("out.txt").read_text()[-3000:]

    steps = [step for _, step in seen(0)]
    again = next(now for before, now in itertools.pairwise(steps) if before == stopped)
    assert 1 < again <= stopped + 1  # a run that began anew would be at step 1
    assert again == stopped + 1 or tasks > 1
    assert {size for rank in range(tasks) for size, _ in seen(rank)} == {tasks}
    assert [path.name for path in Path("runs").iterdir()] == ["version_0"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_torchrun_trains_and_survives_a_crash(project):
    """On two processes; one is killed, and training goes on from the last checkpoint."""
    project("torchrun")
    job = start(["bash", "scripts/train.torchrun.sh", "--trainer.max_epochs=3"], DEVICES=2, KILL=0)
    assert end(job) == [0], Path("out.txt").read_text()[-3000:]
    per_epoch = len(seen(0)) and max(step for _, step in seen(1)) // 3
    assert {size for size, _ in seen(0) + seen(1)} == {2}
    steps = [step for _, step in seen(1)]
    assert steps[: per_epoch + 1] == list(range(1, per_epoch + 2))  # killed in the second epoch
    assert steps[per_epoch + 1 :] == list(range(per_epoch + 1, 3 * per_epoch + 1))
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_torchrun_joins_machines(project):
    """Two agents that meet at an address, as on two machines."""
    project("torchrun")
    words = ["bash", "scripts/train.torchrun.sh", "--trainer.max_epochs=1"]
    alone = start(words, NODES=2)
    assert end(alone) == [1]
    assert "HEAD=HOST:PORT" in Path("out.txt").read_text()
    together = {"NODES": 2, "DEVICES": 1, "HEAD": f"127.0.0.1:{free_port()}"}
    assert end(start(words, **together), start(words, **together)) == [0, 0]
    assert {size for size, _ in seen(0) + seen(1)} == {2}
    assert len(seen(0)) == len(seen(1)) > 0


def test_the_kubernetes_manifest_fits_the_schema(project, scaffold):
    project("kubernetes")
    manifest = yaml.safe_load(Path("kubernetes/pytorchjob.yaml").read_text())
    schema = yaml.safe_load((CLUSTER / "pytorchjob.schema.yaml").read_text())
    jsonschema.validate(manifest, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**manifest, "spec": {"replicas": manifest["spec"]}}, schema)
    replicas = manifest["spec"]["pytorchReplicaSpecs"].values()
    pods = sum(each["replicas"] for each in replicas)
    for each in replicas:
        pod = each["template"]["spec"]
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        assert f"--trainer.num_nodes={pods}" in container["args"]
        workdir = re.search(r"^WORKDIR (\S+)", Path("Dockerfile").read_text(), re.MULTILINE)
        assert mounted["runs"] == f"{workdir[1]}/runs"
    assert scaffold("remove", "extra", "docker").code == 1  # the manifest needs its image


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pods_of_kubernetes_train_together(project):
    """Each with the arguments of the manifest and the variables that the operator sets."""
    project("kubernetes")
    manifest = yaml.safe_load(Path("kubernetes/pytorchjob.yaml").read_text())
    specs = manifest["spec"]["pytorchReplicaSpecs"]
    replicas = [
        specs[role] for role in ("Master", "Worker") for _ in range(specs[role]["replicas"])
    ]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": len(replicas)}
    for epochs in (1, 2):  # the second time every pod was restarted
        pods = [
            start(
                [
                    *(sys.executable, "train.py"),
                    *each["template"]["spec"]["containers"][0]["args"],
                    f"--trainer.max_epochs={epochs}",
                ],
                RANK=rank,
                **told,
            )
            for rank, each in enumerate(replicas)
        ]
        assert end(*pods) == [0] * len(replicas), Path("out.txt").read_text()[-3000:]
    steps = [step for _, step in seen(0)]
    assert {size for size, _ in seen(0) + seen(1)} == {len(replicas)}
    assert steps == list(range(1, len(steps) + 1))
