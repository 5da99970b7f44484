"""From one device to several by one argument: which strategy, how processes start, what comes back."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaffold_runtime.accelerators import CPUAccelerator, parse_devices
from scaffold_runtime.errors import MisconfigurationException, RankFailed
from scaffold_runtime.seed import seed_all
from scaffold_runtime.strategies import DDPStrategy, SingleDeviceStrategy
from scaffold_runtime.strategies.launch import Children, places, run_in_processes, start_scripts
from scaffold_runtime.tuner import Tuner

from .test_ends import survivors

SPAWN = """
import json, os, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from scaffold_runtime import LightningModule, Trainer
from scaffold_runtime.callbacks import EarlyStopping, ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException, RankFailed
from scaffold_runtime.loggers import CSVLogger

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - 2 * batch[0]).square().mean()
        self.log("loss", loss)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", (self.net(batch[0]) - 2 * batch[0]).square().mean())
    def predict_step(self, batch, batch_idx):
        return batch[0] * 10
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

def loader():
    return DataLoader(TensorDataset(torch.arange(16.0).view(16, 1) / 16), batch_size=2)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = Model()
    before = model.net.weight.item()
    stop = EarlyStopping("val_loss")
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=2,
                      callbacks=[stop, ModelCheckpoint(monitor="val_loss")],
                      logger=CSVLogger("logs", "run", "one"), enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, loader(), loader())
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    predicted = trainer.predict(model, loader())
    model.unpicklable = lambda x: x
    try:
        trainer.fit(model, loader())
        error = ""
    except MisconfigurationException as caught:
        error = str(caught)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    sys.stdout.write(json.dumps({
        "moved": model.net.weight.item() != before,
        "weights": bool(torch.equal(saved["state_dict"]["net.weight"], model.net.weight)),
        "step": trainer.global_step, "epoch": trainer.current_epoch,
        "metrics": metrics, "best_score": stop.best_score.item(),
        "finished": trainer.state.finished,
        "predicted": torch.cat(predicted).view(-1).tolist(), "error": error, "rank": os.environ.get("RANK"),
    }))
"""


def draw() -> list[float]:
    """What this process draws, from all processes."""
    torch.distributed.init_process_group("gloo")
    drawn = torch.tensor([random.random(), float(np.random.rand()), torch.rand(()).item()])
    gathered = [torch.empty(3), torch.empty(3)]
    torch.distributed.all_gather(gathered, drawn)
    return [row.tolist() for row in gathered]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_new_processes_begin_with_the_random_numbers_of_here(method: str) -> None:
    seed_all(7)
    expected = torch.tensor([random.random(), float(np.random.rand()), torch.rand(()).item()])
    seed_all(7)
    drawn = run_in_processes(method, places(2, 1, 0), draw, timedelta(seconds=60))
    assert drawn == [expected.tolist()] * 2


def starts_by() -> str:
    """How processes are started here, as the workers of a DataLoader are."""
    return multiprocessing.get_start_method()


def test_data_workers_of_a_spawned_process_start_as_those_of_here_do() -> None:
    """Python would have it spawn them: every one would import torch, in each epoch."""
    there = run_in_processes("spawn", places(1, 1, 0), starts_by, timedelta(seconds=60))
    assert there == starts_by() != "spawn"


def switches() -> tuple[int, bool, str]:
    """How torch computes here: which algorithms, and with how many bits matrices are multiplied."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    return mode, benchmark, torch.get_float32_matmul_precision()


def test_new_processes_compute_as_is_said_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer, or the user, set torch's switches in this process only."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    usual = switches()
    torch.set_deterministic_debug_mode("warn")
    torch.set_float32_matmul_precision("high")
    try:
        there = run_in_processes("spawn", places(1, 1, 0), switches, timedelta(seconds=60))
    finally:
        torch.set_deterministic_debug_mode(usual[0])
        torch.set_float32_matmul_precision(usual[2])
    assert there == (1, True, "high") != usual


@pytest.mark.slow
def test_spawned_processes_bring_back_what_they_made(tmp_path: Path) -> None:
    """Weights, counters, metrics, callbacks, predictions; and what cannot be sent is named."""
    (tmp_path / "train.py").write_text(SPAWN)
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    back = json.loads(done.stdout.splitlines()[-1])
    assert back["moved"]
    assert back["weights"]
    assert (back["step"], back["epoch"], back["finished"], back["rank"]) == (8, 2, True, None)
    assert sorted(back["metrics"]) == ["loss", "val_loss"]
    assert back["best_score"] == back["metrics"]["val_loss"]
    assert back["predicted"] == [number * 10 / 16 for number in range(16)]
    assert "cannot be pickled" in back["error"]
    assert "unpicklable" in back["error"] or "<lambda>" in back["error"]
    assert [path.name for path in (tmp_path / "logs/run").iterdir()] == ["one"]
    assert survivors(tmp_path) == []


class Four(CPUAccelerator):
    """A machine with four devices, as far as counting goes."""

    name = "four"

    @staticmethod
    def auto_device_count() -> int:
        return 4


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        (2, [0, 1]),
        ("2", [0, 1]),
        ([1, 3], [1, 3]),
        ("1, 3", [1, 3]),
        ("3,", [3]),
        (-1, [0, 1, 2, 3]),
        ("-1", [0, 1, 2, 3]),
        ("auto", [0, 1, 2, 3]),
    ],
)
def test_devices_in_all_forms(devices: Any, found: list[int]) -> None:
    assert parse_devices(devices, Four()) == found


def test_a_notebook_takes_one_gpu_unless_more_are_asked_for(monkeypatch: Any) -> None:
    """As with Lightning: CUDA is often in use there already, and then no process can be forked."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(Four, "name", "cuda")
    with pytest.warns(UserWarning, match="devices=4 uses all"):
        assert parse_devices("auto", Four()) == [0]
    assert parse_devices(-1, Four()) == parse_devices(4, Four()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "devices", [0, "0", [], [4], 5, [1, 1], "1,x", "all", -2, True, [-1], [1.5], None]
)
def test_devices_that_are_not_there(devices: Any) -> None:
    with pytest.raises(MisconfigurationException, match="devices="):
        parse_devices(devices, Four())


def test_the_gpu_of_one_task_of_slurm_is_not_all_of_them(monkeypatch: Any) -> None:
    """`srun --gpus-per-task=1` hides the others, which no message of torch says."""
    monkeypatch.setattr(Four, "auto_device_count", staticmethod(lambda: 1))
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(MisconfigurationException, match="--gpus-per-node"):
        parse_devices(4, Four())


@pytest.mark.parametrize("devices", [2, "2", [0, 1], "0,1"])
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_auto_is_ddp_for_several(make_trainer: Any, devices: Any, num_nodes: int) -> None:
    trainer = make_trainer(devices=devices, num_nodes=num_nodes)

    assert isinstance(trainer.strategy, DDPStrategy)
    assert trainer.strategy.start_method == "popen"
    assert (trainer.num_devices, trainer.world_size) == (2, 2 * num_nodes)


def test_auto_is_this_process_for_one(make_trainer: Any) -> None:
    assert isinstance(make_trainer(devices=1).strategy, SingleDeviceStrategy)


def test_auto_is_ddp_notebook_in_a_notebook(
    make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)

    assert make_trainer(devices=2).strategy.start_method == "fork"


@pytest.mark.parametrize("num_nodes", [0, -1, "2", 1.5, None])
def test_nodes_are_counted(make_trainer: Any, num_nodes: Any) -> None:
    with pytest.raises(MisconfigurationException, match="num_nodes"):
        make_trainer(devices=2, num_nodes=num_nodes)


def test_a_process_that_leads_no_group_yet_is_ended() -> None:
    """A spawned one imports torch for seconds before it does."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    Children([process], 0).end(2.0)
    assert process.exitcode == -signal.SIGTERM


def test_where_the_second_process_cannot_be_started_the_first_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = multiprocessing.get_context("fork").Process
    begin, made = kind.start, []

    def start(process: Any) -> None:
        if made:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        made.append(process)
        begin(process)

    monkeypatch.setattr(kind, "start", start)
    with pytest.raises(BlockingIOError):
        run_in_processes("fork", places(2, 1, 0), lambda: time.sleep(60), timedelta(seconds=60))
    assert made[0].exitcode is not None


def test_where_the_second_script_cannot_be_started_the_first_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Sleeping(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: Any, **options: Any) -> None:
            if made:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            made.append(self)
            super().__init__(["sleep", "60"], start_new_session=True)

        def __del__(self) -> None:
            """The second was never made."""

    monkeypatch.setattr(subprocess, "Popen", Sleeping)
    with pytest.raises(BlockingIOError):
        start_scripts(places(3, 1, 0))
    assert made[0].returncode == -signal.SIGTERM


def test_a_fork_server_starts_processes(tmp_path: Path) -> None:
    """They are its children, and not those of the launcher."""
    script = tmp_path / "script.py"
    script.write_text(
        "from scaffold_runtime.strategies.launch import places, run_in_processes\n"
        "from datetime import timedelta\n"
        "from os import getcwd\n"
        "if __name__ == '__main__':\n"
        "    print(run_in_processes('forkserver', places(2, 1, 0), getcwd, timedelta(seconds=60)))\n"
    )
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert ran.stdout.strip() == str(tmp_path), ran.stderr
    until = time.monotonic() + 5  # the server itself ends when it has noticed
    while survivors(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not survivors(tmp_path)


def test_a_killed_launcher_leaves_nothing_large_behind(tmp_path: Path) -> None:
    """What it sent to its processes is gone when they have read it, and they end with it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from scaffold_runtime.strategies.launch import places, run_in_processes\n"
        "from datetime import timedelta\n"
        "from pathlib import Path\n"
        "import os, time\n"
        "def call():\n"
        "    Path('here-' + os.environ['RANK']).touch()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_in_processes('spawn', places(2, 1, 0), call, timedelta(seconds=60))\n"
    )
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment)
    until = time.monotonic() + 60
    try:
        while len(list(tmp_path.glob("here-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        launcher.kill()
        launcher.wait(10)
    assert len(list(tmp_path.glob("here-*"))) == 2
    assert len(list((tmp_path / "temporary").glob("scaffold-*"))) == 1
    assert not list((tmp_path / "temporary").glob("scaffold-*/*"))
    until = time.monotonic() + 5
    while survivors(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not survivors(tmp_path)


@pytest.mark.parametrize(("backend", "told"), [("nccl", [1]), ("gloo", None)])
def test_nccl_is_told_which_device_waits(
    backend: str, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would guess otherwise, and say so in each run."""
    said: list[Any] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(
        torch.distributed, "barrier", lambda device_ids=None: said.append(device_ids)
    )
    strategy = DDPStrategy()
    strategy.world_size, strategy.root_device = 2, torch.device("cuda", 1)
    strategy.barrier()
    assert said == [told]


def test_batch_sizes_are_searched_in_one_process(
    regression: Any, make_loader: Any, ddp: Any
) -> None:
    """Where one of several runs out of memory, the others would wait for it."""

    class Sized(regression):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return make_loader(2)

    with pytest.raises(RankFailed, match=r"works in one process: .* Search with devices=1"):
        Tuner(ddp()).scale_batch_size(Sized())


@pytest.mark.filterwarnings("ignore")  # of dynamo, and of forking beside its threads
def test_a_compiled_module_gets_what_other_processes_trained(
    ddp: Any, regression: Any, make_loader: Any
) -> None:
    module = regression()
    before = module.net[0].weight.detach().clone()
    compiled, trainer = torch.compile(module, backend="eager"), ddp()
    trainer.fit(compiled, make_loader(4))
    assert trainer.lightning_module is module and not torch.equal(module.net[0].weight, before)
    assert list(trainer.validate(compiled, make_loader(2), verbose=False)[0]) == ["val_loss"]


def test_logged_values_travel_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a number of one process would go by gloo, and the tensor of another by NCCL, and both wait."""
    sent: list[torch.device] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor, op, group: sent.append(tensor.device)
    )
    strategy = DDPStrategy()
    strategy.world_size, strategy.root_device = 2, torch.device("meta")
    for value in (torch.tensor(0.0), torch.ones((), device="meta")):
        strategy.reduce(value)
    assert sent == [torch.device("meta")] * 2


def test_a_script_that_is_missing_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice is to use another strategy, which finds the place as it was."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = dict(os.environ)
    strategy = DDPStrategy()
    strategy.attach(CPUAccelerator(), [0, 1], 1)
    with pytest.raises(MisconfigurationException, match="ddp_notebook"):
        strategy.launch(lambda: None, True)
    assert dict(os.environ) == before
