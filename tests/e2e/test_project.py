"""A project, used as a person would use it: new, train, evaluate, resume, add, remove, update."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def run(folder: Path, *words: str, code: int = 0) -> str:
    """Run Python with `words` in `folder` and return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    return printed


def scaffold(folder: Path, *words: str, code: int = 0) -> str:
    return run(folder, "-m", "scaffold", *words, code=code)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default project, trained to the end."""
    folder = tmp_path_factory.mktemp("e2e")
    scaffold(folder, "new", "my-exp", "--defaults", "--no-git")
    return folder / "my-exp"


@pytest.fixture(scope="module")
def trained(project: Path) -> str:
    return run(project, "train.py")


def metric(printed: str, name: str) -> float:
    found = re.search(rf"^\s*{name}\s+([\d.]+)$", printed, re.MULTILINE)
    assert found, printed
    return float(found[1])


def test_training_reaches_what_the_readme_says(project: Path, trained: str) -> None:
    """val_acc >= 0.95, and a run folder with everything in it."""
    assert metric(trained, "val_acc") >= 0.95
    folder = project / "runs" / "version_0"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "hparams.yaml", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (folder / "checkpoints" / "last.ckpt").exists()
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    assert max(float(row["val_acc"]) for row in rows if row["val_acc"]) >= 0.95


def test_evaluation_uses_the_best_checkpoint(project: Path, trained: str) -> None:
    """`validate`, `test` and `predict` find the best checkpoint of the newest run."""
    lines = (project / "runs/version_0/metrics.csv").read_text().splitlines()
    best = max(float(row["val_acc"]) for row in csv.DictReader(lines) if row["val_acc"])

    printed = run(project, "train.py", "validate", "--ckpt_path", "best")

    assert metric(printed, "val_acc") == pytest.approx(best, abs=1e-4)
    assert metric(run(project, "train.py", "test", "--ckpt_path", "best"), "test_acc") > 0.9
    assert "269 predictions" in run(project, "train.py", "predict", "--ckpt_path", "best")


def test_overrides_reach_every_part(project: Path) -> None:
    """Arguments of trainer, model, data and a callback (by name) arrive in the resolved config."""
    printed = run(
        project,
        "train.py",
        "--trainer.max_epochs=1",
        "--model.lr=0.01",
        "--data.batch_size=128",
        "--callbacks.early_stopping.patience=7",
    )

    folder = re.search(r"run folder\s+(\S+)", printed)
    assert folder, printed
    config = yaml.safe_load((project / folder[1] / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1
    assert config["model"]["lr"] == 0.01
    assert config["data"]["batch_size"] == 128
    assert config["callbacks"]["early_stopping"]["init_args"]["patience"] == 7

    again = run(project, "train.py", "--config", f"{folder[1]}/config.yaml")

    assert metric(again, "val_loss") == metric(printed, "val_loss")  # the same run, replayed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trainer.max_epoch", "3"], "--trainer.max_epochs"),
        (["--model.lr", "fast"], "model.lr"),
        (["--callbacks.early_stoping.patience", "3"], "early_stopping"),
        (["tset"], "test"),
    ],
)
def test_a_wrong_option_names_the_right_one(project: Path, words: list[str], says: str) -> None:
    """Exit code 2, the nearest valid name, no traceback."""
    printed = run(project, "train.py", *words, code=2)

    assert says in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) <= 3


def test_a_wrong_key_in_a_file_names_the_file(project: Path) -> None:
    """A misspelt key, and a tab, say where they are."""
    file = project / "configs" / "model.yaml"
    kept = file.read_text()
    try:
        file.write_text("widht: 32\n")
        misspelt = run(project, "train.py", code=2)
        file.write_text("width:\n\t32\n")
        tabbed = run(project, "train.py", code=2)
    finally:
        file.write_text(kept)

    assert "widht" in misspelt
    assert "configs/model.yaml" in misspelt
    assert "width" in misspelt
    assert "configs/model.yaml, line 2" in tabbed
    assert "Traceback" not in misspelt + tabbed


def test_a_generated_project_passes_its_own_checks(project: Path) -> None:
    """Its tests, ruff and black."""
    run(project, "-m", "pytest", "-q")
    run(project, "-m", "ruff", "check", ".")
    run(project, "-m", "black", "--check", ".")


def test_a_project_grows_and_goes_on_training(tmp_path: Path) -> None:
    """new -> train -> resume -> add -> edit -> remove -> update, and the edit is still there."""
    scaffold(tmp_path, "new", "grow", "--defaults", "--no-git")
    project = tmp_path / "grow"
    short = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    run(project, "train.py", "--trainer.max_epochs=1", *short)
    resumed = run(project, "train.py", "fit", "--ckpt_path=last", "--trainer.max_epochs=2", *short)
    assert "Epoch 2/2" in resumed
    assert "Epoch 1/2" not in resumed

    scaffold(project, "add", "callback", "timer")
    assert (project / "configs" / "callbacks" / "timer.yaml").exists()
    model = project / "grow" / "model.py"
    model.write_text(model.read_text().replace("width: int = 32", "width: int = 16"))
    run(project, "train.py", "--trainer.max_epochs=1", *short)
    scaffold(project, "remove", "callback", "timer")
    assert not (project / "configs" / "callbacks" / "timer.yaml").exists()
    scaffold(project, "update")
    assert "width: int = 16" in model.read_text()
    run(project, "train.py", "--trainer.max_epochs=1", *short)
