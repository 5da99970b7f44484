"""XLA, with its CPU device in place of a TPU: the numbers of the CPU, files anybody can read, no needless waiting.

Run by `make test-xla`, in an environment that has torch_xla. Collectives are called with one process only: on
CPUs torch_xla cannot join several.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime import Callback, Trainer
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.profilers import XLAProfiler
from scaffold_runtime.strategies import XLAStrategy

from .deepspeed_program import data
from .xla_program import Small, fitted

pytest.importorskip("torch_xla", reason="torch_xla is not installed here: make test-xla")

FOLDER = Path(__file__).parent


def losses(module: Small) -> torch.Tensor:
    return torch.stack([loss.float().cpu() for loss in module.losses])


def same_start() -> tuple[Small, Small]:
    torch.manual_seed(0)
    one, other = Small(), Small()
    other.load_state_dict(one.state_dict())
    return one, other


def program(what: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "distributed.xla_program", what],
        cwd=FOLDER.parent,
        env={**os.environ, "PJRT_DEVICE": "CPU", **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
    ],
    ids=str,
)
def test_the_numbers_of_the_cpu(arguments: dict[str, Any]) -> None:
    on_xla, on_cpu = same_start()
    trainer = fitted(on_xla, **arguments)
    other = fitted(on_cpu, accelerator="cpu", **arguments)

    near = 0.1 if "precision" in arguments else 1e-4
    assert trainer.device.type == "xla"
    assert isinstance(trainer.strategy, XLAStrategy)
    torch.testing.assert_close(losses(on_xla), losses(on_cpu), rtol=near, atol=near)
    for key, value in trainer.callback_metrics.items():
        assert float(value) == pytest.approx(float(other.callback_metrics[key]), rel=near, abs=near)
    predicted, expected = trainer.predict(on_xla, data()), other.predict(on_cpu, data())
    assert predicted is not None and expected is not None
    own = torch.cat([part.cpu() for part in predicted]).float()
    torch.testing.assert_close(own, torch.cat(expected).float(), rtol=near, atol=near)


def test_a_checkpoint_names_no_device_and_resumes(tmp_path: Path) -> None:
    whole, rest = same_start()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fitted(whole, max_epochs=3, callbacks=[keep])
    file = tmp_path / "epoch=0.ckpt"

    def devices(value: Any) -> set[str]:
        parts = value.values() if isinstance(value, dict) else value
        if isinstance(value, torch.Tensor):
            return {value.device.type}
        return set().union(*map(devices, parts)) if isinstance(value, (dict, list)) else set()

    assert devices(torch.load(file, weights_only=True)) == {"cpu"}
    fitted(rest, max_epochs=3, ckpt_path=file)
    assert torch.equal(losses(rest), losses(whole)[8:])
    fitted(Small(), accelerator="cpu", max_epochs=2, ckpt_path=file)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shared_weights_stay_shared(device: str) -> None:
    class Tied(Small):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
            self.net[1].weight = self.net[0].weight  # type: ignore[assignment] # it is one

    with torch.device(device):
        module = Tied()
    fitted(module)
    assert module.net[0].weight is module.net[1].weight
    assert len(list(module.parameters())) == 5


def test_steps_do_not_wait_for_the_device() -> None:
    """Between two log steps nothing is fetched: torch_xla counts what travels back."""
    import torch_xla.debug.metrics as counted

    fetched = []

    class Count(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            data = counted.metric_data("TransferFromDeviceTime")
            fetched.append(0 if data is None else data[0])

    fitted(Small(), max_epochs=1, callbacks=[Count()], log_every_n_steps=100)
    assert len(fetched) == 8 and len(set(fetched[1:])) == 1


def test_calls_between_processes() -> None:
    """With the answers of the one process there is."""
    module = Small()
    strategy = fitted(module).strategy
    strategy.world_size = 2  # so that it asks
    one = torch.ones(3, device=strategy.root_device)
    assert strategy.reduce(one, reduce_op="avg").tolist() == [1.0] * 3
    assert strategy.reduce(one, reduce_op="max").tolist() == [1.0] * 3
    assert strategy.all_gather({"a": one})["a"].shape == (1, 3)
    assert strategy.all_gather(one, sync_grads=True).shape == (1, 3)
    assert strategy.gather({"a": (1, "b")}) == [{"a": (1, "b")}]
    assert strategy.broadcast([1, 2]) == [1, 2]
    assert strategy.agree_to_stop(3, 7, due=True) == 7
    assert strategy.agree_to_stop(4, 9) == 7
    strategy.barrier()


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MisconfigurationException, match="do not scale losses"):
        fitted(Small(), precision="16-mixed")
    monkeypatch.setenv("CPU_NUM_DEVICES", "4")
    with pytest.raises(MisconfigurationException, match="one device or all 4"):
        Trainer(accelerator="tpu", devices=2, max_epochs=1)


def test_profiler() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fitted(Small(), profiler=XLAProfiler(port), max_epochs=1)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


def test_spmd_divides_batches_over_two_devices() -> None:
    found = program("spmd", CPU_NUM_DEVICES="2")
    torch.manual_seed(0)
    module = Small()
    fitted(module, accelerator="cpu")
    assert found["world"] == 1
    assert "devices=[2,1]" in found["sharding"]
    torch.testing.assert_close(torch.tensor(found["losses"]), losses(module), rtol=1e-4, atol=1e-5)


def test_processes_are_launched_and_fail_loudly() -> None:
    found = program("launched")
    assert found["device"] == "xla:0"
    assert "ArithmeticError: in the new process" in found["error"]
