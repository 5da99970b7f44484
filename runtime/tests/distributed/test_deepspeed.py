"""Real DeepSpeed on two processes by gloo: the numbers of one process, its checkpoints, what it refuses.

Run by `make test-deepspeed`, in an environment that has DeepSpeed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime.accelerators import CUDAAccelerator
from scaffold_runtime.checkpoint.__main__ import main as checkpoint_command
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.strategies import DeepSpeedStrategy
from scaffold_runtime.strategies.deepspeed_config import complete_config

from .deepspeed_program import KINDS, Small, data, trainer

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed here: make test-deepspeed")

PROGRAM = Path(__file__).with_name("deepspeed_program.py")
SECONDS = 150  # for all cases of one run
PLAIN = {"train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 1}}

TRAINED: list[dict[str, Any]] = [
    {"name": "stage_1", "named": "deepspeed_stage_1", "trainer": {}},
    {"name": "stage_2", "named": "deepspeed", "trainer": {}},
    {"name": "stage_3", "named": "deepspeed_stage_3", "trainer": {}},
    {"name": "stage_2_offload", "named": "deepspeed_stage_2_offload", "trainer": {}},
    {"name": "stage_3_offload", "named": "deepspeed_stage_3_offload", "trainer": {}},
    {"name": "config", "strategy": {"config": PLAIN}, "trainer": {}},
    {"name": "clipped", "strategy": {"stage": 2}, "trainer": {"gradient_clip_val": 0.1}},
    {"name": "windows", "strategy": {"stage": 2}, "trainer": {"accumulate_grad_batches": 3}},
    {"name": "windows_3", "strategy": {"stage": 3}, "trainer": {"accumulate_grad_batches": 3}},
    {"name": "windows_0", "strategy": {"stage": 0}, "trainer": {"accumulate_grad_batches": 3}},
    {
        "name": "backward",
        "kind": "Backward",
        "strategy": {"stage": 2},
        "trainer": {"accumulate_grad_batches": 3},
    },
    {"name": "manual", "kind": "Manual", "strategy": {"stage": 2}, "trainer": {}},
    {"name": "late", "kind": "Late", "strategy": {"stage": 3}, "trainer": {}},
    {"name": "meta", "kind": "Meta", "strategy": {"stage": 3}, "trainer": {}},
    {"name": "meta_offload", "kind": "Meta", "named": "deepspeed_stage_3_offload", "trainer": {}},
    {"name": "summary", "strategy": {"stage": 3}, "trainer": {"enable_model_summary": True}},
    {"name": "meta_stage_2", "kind": "Meta", "strategy": {"stage": 2}, "trainer": {}},
    {"name": "async", "strategy": {"stage": 1}, "saves": 1, "rewrites": [0, 1, 0], "trainer": {}},
    {"name": "bf16", "strategy": {"stage": 2}, "trainer": {"precision": "bf16-mixed"}},
    {"name": "bf16_3", "strategy": {"stage": 3}, "trainer": {"precision": "bf16-mixed"}},
    {
        "name": "bf16_meta",
        "kind": "Meta",
        "strategy": {"stage": 3},
        "trainer": {"precision": "bf16-mixed"},
    },
]
SAVED = [
    {"name": f"saved_{stage}{bits}", "kind": kind, "strategy": {"stage": stage}, "saves": 1,
     "trainer": {"max_epochs": 3, **({"precision": "bf16-mixed"} if bits else {})}}
    for stage, bits, kind in ((1, "", "Small"), (2, "", "Small"), (3, "", "Meta"), (3, "_bf16", "Small"))
]  # fmt: skip


def half(name: str, stage: int, power: int, **others: Any) -> dict[str, Any]:
    """A case in fp16 whose first loss scale is two to the power of `power`, and changes soon if it is large."""
    # Where DeepSpeed doubles the scale, it divides the gradients of that step by the new one already.
    window = 3 if power > 16 else 1000
    scaling = {"initial_scale_power": power, "hysteresis": 2, "loss_scale_window": window}
    config = {"zero_optimization": {"stage": stage}, "fp16": scaling}
    settings = {"precision": "16-mixed", **others.pop("trainer", {})}
    return {"name": name, "strategy": {"config": config}, "trainer": settings, **others}


HALF = [
    half("half_1", 1, 8),
    half("half_2", 2, 8),
    half("half_3", 3, 8),
    half("half_meta", 3, 8, kind="Meta", trainer={"precision": "16-true"}),
    half("half_true", 2, 8, trainer={"precision": "16-true"}),
    half("half_clipped_1", 1, 8, trainer={"gradient_clip_val": 0.1}),
    half("half_clipped_3", 3, 8, trainer={"gradient_clip_val": 0.1}),
    half("half_windows_1", 1, 8, trainer={"accumulate_grad_batches": 3}),
    half("half_windows_2", 2, 8, trainer={"accumulate_grad_batches": 3}),
    half("half_windows_3", 3, 8, trainer={"accumulate_grad_batches": 3}),
    half("half_backward", 2, 8, kind="Backward", trainer={"accumulate_grad_batches": 3}),
    half("half_manual", 2, 8, kind="Manual"),
]
OVERFLOWING = [
    half(f"over_{stage}", stage, 20, saves=1, trainer={"max_epochs": 3}) for stage in (1, 2, 3)
]


def run(folder: Path, cases: list[dict[str, Any]], expected: int = 0) -> str:
    """Run the cases in two fresh processes, and see that none is left."""
    name = f"cases-{len(list(folder.glob('cases-*')))}.json"
    (folder / name).write_text(json.dumps(cases))
    command = [sys.executable, str(PROGRAM), str(folder), name]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout
    assert not left, f"processes are left: {left}"
    assert process.returncode == expected, output
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is trained and saved here, by one pair of processes."""
    folder = tmp_path_factory.mktemp("deepspeed")
    run(folder, [*TRAINED, *SAVED])
    return folder


def outcome(folder: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return read


def resumed(
    folder: Path, cases: list[dict[str, Any]], file: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What each case came to, and what it comes to in two fresh processes that go on from its `file`."""
    names = [case["name"] for case in cases]
    again = [
        {**case, "name": f"{name}-again", "saves": 0, "resume": str(folder / name / file)}
        for name, case in zip(names, cases, strict=True)
    ]
    run(folder, again)
    return [(outcome(folder, name), outcome(folder, f"{name}-again")) for name in names]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case["name"])
def test_the_numbers_of_one_process(case: dict[str, Any], trained: Path) -> None:
    """The mean of both losses is the loss of one process on the joint batch, at every step."""
    torch.manual_seed(0)
    module = KINDS[case.get("kind", "Small")]()
    joint = torch.arange(32).view(-1, 8).tolist()
    alone = trainer(**case["trainer"])
    alone.fit(module, data(batch_sampler=joint), data())

    found = outcome(trained, case["name"])
    near = 0.05 if case["name"].startswith("bf16") else 1e-5
    together = torch.tensor(found["losses"]).mean(0)
    torch.testing.assert_close(together, torch.stack(module.losses), rtol=near, atol=near)
    assert found["validated"] == pytest.approx(float(alone.callback_metrics["val_loss"]), rel=near)
    assert found["values"]["val_loss"] == pytest.approx(found["validated"], rel=1e-6)
    predicted = torch.load(trained / f"{case['name']}.pt")
    own = alone.predict(module, data())
    assert own is not None
    torch.testing.assert_close(torch.cat(predicted), torch.cat(own).float(), rtol=near, atol=near)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("name", "dtype"), [("meta", "float32"), ("bf16_meta", "bfloat16")])
def test_layers_without_memory_are_divided_as_they_get_it(
    name: str, dtype: str, trained: Path
) -> None:
    """In the format that is computed in. Others are whole when optimizers are made."""
    assert outcome(trained, name)["made"] == [[f"torch.{dtype}", 0]] * 5
    assert outcome(trained, "bf16_meta")["losses"] == outcome(trained, "bf16_3")["losses"]
    for other in ("late", "meta_stage_2"):
        assert [size for _, size in outcome(trained, other)["made"]] == [32, 8, 8, 1, 16]


def test_the_device_never_has_all_of_a_model(trained: Path) -> None:
    assert outcome(trained, "stage_2")["moved"] == 65
    for name in ("stage_3", "late", "meta"):
        assert outcome(trained, name)["moved"] == 0


@pytest.mark.timeout(200)
def test_weights_of_one_file_are_taken_by_divided_layers(tmp_path: Path) -> None:
    """Before and after they were divided, by the same trainer and by others; they train on as one process does."""
    torch.manual_seed(7)
    module, joint = Small(), torch.arange(32).view(-1, 8).tolist()
    alone, file = trainer(max_epochs=1), tmp_path / "plain.ckpt"
    alone.fit(module, data(batch_sampler=joint))
    alone.save_checkpoint(file)
    expected = alone.validate(module, data(), verbose=False)[0]["val_loss"]
    again = trainer()
    again.fit(module, data(batch_sampler=joint), ckpt_path=file, restore="weights")
    trained = again.validate(module, data(), verbose=False)[0]["val_loss"]

    run(tmp_path, [{"name": "taken", "take": str(file), "trainer": {}}])

    found = outcome(tmp_path, "taken")
    assert found["validated"] == pytest.approx([expected] * 9, rel=1e-5)
    for kind in ("Meta", "Small", "Late"):
        together = torch.tensor(found[kind]).mean(0)
        torch.testing.assert_close(
            together, torch.stack(module.losses[4:] * 2), rtol=1e-5, atol=1e-5
        )
        assert found[f"{kind} trained"] == pytest.approx(trained, rel=1e-5)
    assert found["parameters"] == [65, 65, 65]
    assert found["meta"]
    assert ["torch.float32" in found["refused"][0], len(found["refused"])] == [True, 3]
    assert all("were sharded" in refused for refused in found["refused"])


@pytest.mark.timeout(200)
def test_srun_starts_both(tmp_path: Path) -> None:
    """Which sets none of torchrun's variables; DeepSpeed wants one of them."""
    (tmp_path / "cases.json").write_text(
        json.dumps([{"name": "srun", "kind": "Late", "strategy": {"stage": 3}, "trainer": {}}])
    )
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_NODEID": "0"}
    job["SLURM_STEP_NODELIST"] = "localhost"
    tasks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), "cases.json"],
            env={**os.environ, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [task.communicate(timeout=100)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert len(outcome(tmp_path, "srun")["losses"]) == 2


@pytest.mark.parametrize("devices", [[2, 3], [1], [1, 0]])
def test_devices_that_are_not_the_first_are_refused(devices: list[int]) -> None:
    """DeepSpeed takes the device whose number is the process's own, whatever else was chosen."""
    with pytest.raises(MisconfigurationException, match="CUDA_VISIBLE_DEVICES="):
        DeepSpeedStrategy().attach(CUDAAccelerator(), devices, 1)


@pytest.mark.timeout(100)
def test_optimizer_states_alone_are_refused(trained: Path, tmp_path: Path) -> None:
    """A checkpoint of DeepSpeed has none that others could take, and DeepSpeed takes none of theirs."""
    with pytest.raises(CheckpointError, match="cannot be taken alone"):
        trainer().fit(
            Small(), data(), ckpt_path=trained / "saved_1" / "last.ckpt", restore="optimizers"
        )
    alone = trainer(max_epochs=1)
    alone.fit(Small(), data())
    alone.save_checkpoint(tmp_path / "plain.ckpt")
    case = {"name": "opt", "strategy": {"stage": 1}, "trainer": {}, "restore": "optimizers"}
    output = run(tmp_path, [{**case, "resume": str(tmp_path / "plain.ckpt")}], expected=1)
    assert "cannot be taken alone" in output


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is trained in fp16: on a CPU, where DeepSpeed refuses it unless its check is patched."""
    folder = tmp_path_factory.mktemp("half")
    run(folder, [*HALF, *OVERFLOWING])
    return folder


@pytest.mark.timeout(200)
@pytest.mark.parametrize("case", HALF, ids=lambda case: case["name"])
def test_fp16_on_a_cpu_with_the_check_patched(case: dict[str, Any], halved: Path) -> None:
    """Near the numbers of one process in 32 bits."""
    torch.manual_seed(0)
    module = KINDS[case.get("kind", "Small")]()
    alone = trainer(**{**case["trainer"], "precision": "32-true"})
    alone.fit(module, data(batch_sampler=torch.arange(32).view(-1, 8).tolist()), data())

    found = outcome(halved, case["name"])
    together = torch.tensor(found["losses"]).mean(0)
    torch.testing.assert_close(together, torch.stack(module.losses), rtol=0.01, atol=0.01)
    assert found["validated"] == pytest.approx(float(alone.callback_metrics["val_loss"]), rel=0.01)
    assert found["scales"][-1] == [alone.global_step, 2**8, 0]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("case", OVERFLOWING, ids=lambda case: case["name"])
def test_steps_that_overflow_in_fp16_are_skipped(case: dict[str, Any], halved: Path) -> None:
    """As a gradient scaler does it elsewhere: weights stay, the step counts. (A CPU, with the check patched.)"""
    found = outcome(halved, case["name"])
    steps, scales, skipped = zip(*found["scales"], strict=True)
    assert steps == tuple(range(1, 13))
    assert scales[:4] == (2**20, 2**19, 2**18, 2**17)  # DeepSpeed's hysteresis forgives the first
    assert skipped[:4] == (1, 2, 3, 4) and skipped[-1] < 10
    for losses in found["losses"]:
        assert losses[:2] == losses[4:6]  # the same batches by the same weights
        assert losses[8] != losses[0]


@pytest.mark.timeout(200)
def test_fp16_resumes_with_its_loss_scale(halved: Path) -> None:
    """In the middle of what DeepSpeed counts to change it, bit for bit. (A CPU, with the check patched.)"""
    for whole, rest in resumed(halved, OVERFLOWING, "epoch=1.ckpt"):
        assert [losses[8:] for losses in whole["losses"]] == rest["losses"]
        assert whole["scales"][8:] == rest["scales"]
        assert whole["values"] == rest["values"]


def test_fp16_needs_a_stage_that_scales_losses() -> None:
    with pytest.raises(MisconfigurationException, match="does not scale losses at stage 0"):
        complete_config({}, trainer(precision="16-mixed"))


@pytest.mark.timeout(200)
def test_resume_is_exact(trained: Path) -> None:
    """Two fresh processes go on from the end of the first epoch: the same losses, bit for bit."""
    for whole, rest in resumed(trained, SAVED, "epoch=0.ckpt"):
        assert [losses[4:] for losses in whole["losses"]] == rest["losses"]
        assert whole["values"] == rest["values"]


@pytest.mark.timeout(100)
@pytest.mark.parametrize("case", SAVED, ids=lambda case: case["name"])
def test_consolidated_to_one_file(case: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    """Weights, frozen ones and buffers too, in 32 bits under plain names: they predict what DeepSpeed did."""
    folder, file = trained / case["name"] / "last.ckpt", tmp_path / "whole.ckpt"

    assert checkpoint_command(["consolidate", str(folder), str(file)]) == 0

    whole = read_checkpoint(file)
    assert whole["state_dict"].keys() == Small().state_dict().keys()
    assert "optimizer_states" not in whole
    module = Small.load_from_checkpoint(file)
    near = 0.05 if case["name"].endswith("bf16") else 1e-6
    predicted = trainer().predict(module, data())
    expected = torch.load(trained / f"{case['name']}.pt")
    assert predicted is not None
    torch.testing.assert_close(torch.cat(predicted), torch.cat(expected), rtol=near, atol=near)
    straight = Small.load_from_checkpoint(folder)
    assert all(
        torch.equal(a, b) for a, b in zip(straight.parameters(), module.parameters(), strict=True)
    )


def test_written_over_and_written_beside_training(trained: Path) -> None:
    """What an older save left in the same folder is gone; a save beside training is whole."""
    assert len(list((trained / "async.ckpt").glob("engine-*"))) == 1
    again, beside = (
        Small.load_from_checkpoint(path)
        for path in (trained / "async.ckpt", trained / "async" / "last.ckpt")
    )
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), beside.parameters(), strict=True)
    )


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("stage", "devices"), [(1, 1), (3, 2)])
def test_other_processes_or_stages_cannot_resume(stage: int, devices: int, trained: Path) -> None:
    settings = {"max_epochs": 4, "devices": devices}
    case = {"name": f"other_{stage}_{devices}", "strategy": {"stage": stage}, "trainer": settings}
    output = run(trained, [{**case, "resume": str(trained / "saved_1" / "last.ckpt")}], expected=1)
    assert f"processes at stage {stage}" in output and "CheckpointError" in output


@pytest.mark.timeout(100)
def test_another_strategy_says_what_it_cannot_load(trained: Path) -> None:
    with pytest.raises(CheckpointError, match="only that can load its optimizer states"):
        trainer().fit(Small(), data(), ckpt_path=trained / "saved_1" / "last.ckpt")
    trainer().validate(Small(), data(), ckpt_path=trained / "saved_1" / "last.ckpt")


@pytest.mark.timeout(100)
def test_damage_and_foreign_code_are_refused(trained: Path, tmp_path: Path) -> None:
    """DeepSpeed unpickles its files, so they are looked at before it may."""
    copy = Path(shutil.copytree(trained / "saved_2" / "last.ckpt", tmp_path / "copy.ckpt"))
    victim = next(copy.rglob("*rank_1*optim_states.pt"))
    good = victim.read_bytes()

    victim.write_bytes(good[:-1])
    with pytest.raises(CheckpointError, match="has another size"):
        read_checkpoint(copy)
    middle = good.index(b"zero_stage")
    victim.write_bytes(good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(copy)
    evil = tmp_path / "evil.pt"
    torch.save({"call": os.system, "padding": "x" * len(good)}, evil)
    victim.write_bytes(evil.read_bytes())
    part = next(copy.glob("part-*-00000.ckpt"))
    checkpoint = torch.load(part, weights_only=True)
    checkpoint["engine"]["files"][str(victim.relative_to(victim.parents[1]))] = evil.stat().st_size
    torch.save(checkpoint, part)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["parts"][0]["size"] = part.stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        read_checkpoint(copy)
