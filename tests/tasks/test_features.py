"""Every task with every feature that makes sense in it: linted and typed together, trained two batches with each.

One process trains all projects of a task, as importing torch takes longer than training them. Features that rule each
other out are on by themselves, all others together. Strategies are not tried here: ddp and fsdp start two
processes, twenty seconds for each of all tasks, and know no task (tests/e2e trains with them).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scaffold.catalogue import Part, packaged
from scaffold.cli import main

CATALOGUE = packaged()
SWITCHED = [*CATALOGUE.features["callback"].values(), *CATALOGUE.features["logger"].values()]
ALONE = ("backbone_finetuning", "swa")  # both change which weights are trained or kept, as ema does
MANUAL = "its two optimizers step by hand"
WHOLE = "there is nothing but the backbone"
SENSELESS = {
    ("diffusion", "backbone-finetuning"): WHOLE,
    ("generative-adversarial", "backbone-finetuning"): "there is no backbone",
    ("generative-adversarial", "gradient-accumulation-schedule"): MANUAL,
    ("generative-adversarial", "swa"): MANUAL,
    ("finetune", "backbone-finetuning"): "it unfreezes by a callback of its own",
    ("language-model", "backbone-finetuning"): WHOLE,
    ("language-model", "gradient-accumulation-schedule"): "its configuration accumulates already",
    ("llm-finetuning", "backbone-finetuning"): WHOLE,
    ("reinforcement-learning", "backbone-finetuning"): "there is no backbone",
    ("text-classification", "backbone-finetuning"): "there is no backbone",
}
DRIVER = """
import importlib, json, os, shutil, sys, traceback
from pathlib import Path
import torch
from scaffold_runtime.cli import run

package, model, data, small, *groups = sys.argv[1:]
sys.path.insert(0, os.getcwd())
model = getattr(importlib.import_module(f"{package}.model"), model)
data = getattr(importlib.import_module(f"{package}.data"), data)
trainer = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "accelerator": "cpu",
           "check_val_every_n_epoch": 1, "num_sanity_val_steps": 0, "limit_predict_batches": 1}
words = [*[f"--trainer.{key}={value}" for key, value in trainer.items()], *small.split()]
every = set(os.environ["SWITCHED"].split())
failed = {}
for group in groups:
    features = group.split(",")
    configs = Path(f"with-{group}"[:50])
    shutil.copytree("configs", configs)
    (configs / "callbacks" / "baseline.yaml").unlink(missing_ok=True)  # trains other models
    for file in configs.glob("*s/*.yaml"):
        if file.stem in every - {"model_checkpoint", "csv", *features}:
            file.unlink()
    try:
        ran = run(model, data, configs=configs.resolve(), args=["fit", *words])
        made = [type(each).__name__ for each in (*ran.trainer.callbacks, *ran.trainer.loggers)]
        for feature in features:
            (file,) = configs.glob(f"*s/{feature}.yaml")
            name = file.read_text().split("class_path: ")[1].split()[0].rpartition(".")[2]
            assert name in made, f"{name} is not among {made}"
        assert ran.trainer.global_step >= 1, "it made no step"
        assert ran.trainer.current_epoch == 1, "it did not end its epoch"
        if "prediction_writer" in features:
            Path("runs/predictions").mkdir(parents=True)
            Path("runs/predictions/rank_1.pt").touch()  # of a run in two processes
            run(model, data, configs=configs.resolve(), args=["predict", "--ckpt_path=last", *words])
            (written,) = Path("runs/predictions").glob("*.pt")
            kept = torch.load(written)
            (rows,) = kept["rows"]
            assert len(rows) == len(kept["predictions"]) == 1, "it says not which samples they are"
    except BaseException:
        failed[group] = traceback.format_exc()[-2500:]
Path("failed.json").write_text(json.dumps(failed))
"""


def config(part: Part) -> str:
    return part.name.replace("-", "_")


def installed(part: Part) -> bool:
    return not part.imports or importlib.util.find_spec(part.imports) is not None


@pytest.fixture(scope="module", params=sorted(CATALOGUE.tasks))
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task with all callbacks, loggers and extras."""
    folder = tmp_path_factory.mktemp("features")
    words = ["new", f"all-{request.param}", "--task", request.param, "--no-git"]
    for kind in ("callback", "logger", "extra"):
        words += [f"--{kind}s", ",".join(CATALOGUE.features[kind])]
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.raises(SystemExit) as ended:
            main(words)
    finally:
        os.chdir(before)
    assert not ended.value.code
    return folder / f"all-{request.param}"


@pytest.mark.slow
def test_all_features_are_formatted_linted_and_typed_in_each_task(
    project: Path, mypy: Callable[[Path], str]
) -> None:
    """Types once: features bring the same code to each task, and a task's own is checked in test_tasks."""
    for words in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["black", "--check", "--quiet", "."],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    if project.name == "all-blank":
        assert "Success: no issues" in (said := mypy(project)), said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_batches_with_each_feature(project: Path, quick: dict[str, list[str]]) -> None:
    task = CATALOGUE.tasks[project.name.removeprefix("all-")]
    parts = [part for part in SWITCHED if (task.name, part.name) not in SENSELESS]
    features = [config(part) for part in parts if installed(part)]
    assert len(features) >= 13
    alone = [name for name in features if name in ALONE]
    together = ",".join(name for name in features if name not in ALONE)
    (project / "driver.py").write_text(DRIVER)
    names = [
        project.name.replace("-", "_"),
        task.model,
        task.data,
        " ".join(quick.get(task.name, [])),
    ]
    done = subprocess.run(
        [sys.executable, "driver.py", *names, *alone, together],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=550,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
            "SWITCHED": " ".join(map(config, SWITCHED)),
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((project / "failed.json").read_text()) == {}
