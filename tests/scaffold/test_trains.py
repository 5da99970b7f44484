"""Every feature in a rendered project: it trains two batches, stops, resumes, and passes its tests.

One process trains all projects, as importing torch takes longer than training them.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scaffold.catalogue import packaged

DRIVER = """
import importlib, json, os, sys, traceback
import pytest
from scaffold_runtime.cli import run

failed = {}
two = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
for name in sys.argv[1:]:
    os.chdir(name)
    sys.path.insert(0, os.getcwd())
    package = name.replace("-", "_")
    model = importlib.import_module(f"{package}.model").Model
    data = importlib.import_module(f"{package}.data").DataModule
    try:
        for words in (["--trainer.max_epochs=1"], ["--trainer.max_epochs=2", "--ckpt_path=last"]):
            run(model, data, configs=os.path.abspath("configs"), args=["fit", *two, *words])
        trained = run(model, data, configs=os.path.abspath("configs"), args=["check"])
        assert len(os.listdir("runs")) >= 1, "no run folder"
        words = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "ignore"]
        assert pytest.main([*words, "tests"]) == 0, "its tests fail"
    except BaseException:
        failed[name] = traceback.format_exc()[-1500:]
    os.chdir("..")
json.dump(failed, open("failed.json", "w"))
"""


def train_script(*words: str) -> subprocess.CompletedProcess[str]:
    """Train two batches by `python train.py`, with a time limit."""
    two = ("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2")
    return subprocess.run(
        [sys.executable, "train.py", *two, "--trainer.max_epochs=1", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def installed(part) -> bool:
    return not part.imports or importlib.util.find_spec(part.imports) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_feature_trains_resumes_and_passes_its_tests(scaffold):
    """Strategies are tested elsewhere, with two processes."""
    features = packaged().features
    chosen = [part for kind in ("callback", "logger", "extra") for part in features[kind].values()]
    absent = [part.imports for part in chosen if not installed(part)]
    assert absent == ["jupyterlab"], "needed for development: see CONTRIBUTING.md"
    names = []
    for part in chosen:
        names.append(f"with-{part.name}")
        on = {"callback": {"model-checkpoint"}, "logger": {"csv"}, "extra": set()}
        on[part.kind].add(part.name)
        flags = [word for kind in on for word in (f"--{kind}s", ",".join(on[kind]))]
        assert scaffold("new", names[-1], "--task", "blank", "--no-git", *flags).code == 0
    Path("driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, "driver.py", *names],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(Path("failed.json").read_text()) == {}


@pytest.mark.slow
def test_a_default_project_with_stubs_passes_its_own_tests(scaffold):
    """The tests of the project, and those of each stub."""
    assert scaffold("new", "my-exp", "--no-git").code == 0
    os.chdir("my-exp")
    for kind in ("callback", "logger", "module", "datamodule"):
        assert scaffold("add", kind, f"my-{kind}", "--custom").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_stubs_are_chosen_by_name_on_the_command_line(scaffold):
    assert scaffold("new", "my-exp", "--no-git").code == 0
    os.chdir("my-exp")
    script = Path("train.py").read_text()
    scaffold("add", "module", "resnet")
    scaffold("add", "datamodule", "images")
    done = train_script("--model", "resnet", "--data=images", "--model.width=8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--model resnet --data images" in done.stdout
    config = yaml.safe_load(Path("runs/version_0/config.yaml").read_text())
    assert config["model"]["class_path"] == "my_exp.models.resnet.Resnet"
    assert config["model"]["init_args"]["width"] == 8
    assert config["data"]["class_path"] == "my_exp.datamodules.images.Images"
    assert Path("train.py").read_text() == script


WITNESS = """
from pathlib import Path
from scaffold_runtime import Callback

class Witness(Callback):
    def on_train_batch_end(self, trainer, *_):
        with Path(f"rank{trainer.global_rank}.txt").open("a") as out:
            out.write(f"{trainer.world_size}\\n")
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_strategy_trains_two_batches_in_two_processes_and_resumes(scaffold, strategy):
    assert scaffold("new", "my-exp", "--task", "blank", "--no-git").code == 0
    os.chdir("my-exp")
    assert scaffold("add", "strategy", strategy).code == 0
    Path("my_exp/witness.py").write_text(WITNESS)
    Path("configs/callbacks/witness.yaml").write_text("class_path: my_exp.witness.Witness\n")
    assert yaml.safe_load(Path("configs/trainer.yaml").read_text())["strategy"] == strategy
    for epochs in (1, 2):
        words = ("--trainer.devices=2", "--trainer.accelerator=cpu", "--ckpt_path=last")
        # Two batches to validate with: fsdp needs as many for each.
        words += ("--data.batch_size=40",)
        done = train_script(*words, f"--trainer.max_epochs={epochs}")
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = [Path(f"rank{rank}.txt").read_text().split() for rank in (0, 1)]
        assert ranks == [["2"] * 2 * epochs] * 2
    assert len(list(Path("runs").iterdir())) == 1


def test_the_runtime_has_every_strategy():
    from scaffold_runtime.strategies import STRATEGIES

    assert packaged().features["strategy"].keys() <= STRATEGIES.keys()


@pytest.mark.timeout(240)
def test_deepspeed_trains_two_batches_and_doctor_agrees(scaffold):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed here: make test-deepspeed")
    assert scaffold("new", "my-exp", "--task", "blank", "--no-git").code == 0
    os.chdir("my-exp")
    assert scaffold("add", "strategy", "deepspeed").code == 0
    done = train_script("--trainer.devices=2", "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    saved = next(Path("runs").rglob("*.ckpt"))
    assert list(saved.glob("engine-*/checkpoint/*optim_states.pt"))
    assert "does not support it" not in scaffold("doctor").out
