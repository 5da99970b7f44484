"""`scaffold add extra folds`, then `python folds.py`: real trainings, killed and continued."""

from __future__ import annotations

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
WORDS = ["--trainer.max_epochs=30", "--callbacks.early_stopping.patience=30"]
ROWS, FOLDS = 90, 2


def scaffold(folder: Path, *words: str) -> None:
    run(folder, "-m", "scaffold", *words)


def run(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with named classes and ids with leading zeros, and a test file without the classes."""
    folder = tmp_path_factory.mktemp("folds")
    words = ("--task", "tabular", "--extras", "folds", "--no-git")
    scaffold(folder, "new", "fold-exp", *words)
    place = folder / "fold-exp"
    chance = torch.Generator().manual_seed(0)
    sizes = torch.rand(ROWS + 20, generator=chance).tolist()
    lines = [f"{n:03d},{size:.3f},{'sb'[size > 0.5]}\n" for n, size in enumerate(sizes)]
    (place / "rows.csv").write_text("key,size,kind\n" + "".join(lines[:ROWS]))
    rest = [line.rpartition(",")[0] + "\n" for line in lines[ROWS:]]
    (place / "test.csv").write_text("key,size\n" + "".join(rest))
    config = place / "configs" / "data.yaml"
    text = config.read_text()
    for old, new in (
        ("source: diabetes", "source: rows.csv"),
        ("target: target", "target: kind"),
        ("classify: false", "classify: true"),
        ("id: null", "id: key"),
        ("test: null", "test: test.csv"),
        ("folds: 5", f"folds: {FOLDS}"),
    ):
        assert f"\n{old}\n" in text
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    config.write_text(text)
    return place


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def kill_when(project: Path, reached: Path) -> None:
    """Start folds.py, and kill it and its trainings as soon as a file `reached` exists."""
    words = [sys.executable, "folds.py", *WORDS]
    folds = subprocess.Popen(words, cwd=project, env=ENVIRONMENT, start_new_session=True)
    try:
        patience = time.monotonic() + 200
        while not any(project.glob(str(reached))):
            assert folds.poll() is None and time.monotonic() < patience
            time.sleep(0.02)
    finally:
        os.killpg(folds.pid, signal.SIGKILL)
        folds.wait(timeout=20)


@pytest.fixture
def package(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    yield [importlib.import_module(f"fold_exp.{name}") for name in ("data", "model")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "fold_exp"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_folds_go_on_and_each_row_is_predicted_by_a_model_that_did_not_see_it(
    project: Path, package
) -> None:
    place = project / "runs" / "folds_0"
    kill_when(project, Path("runs/folds_0/fold_1/checkpoints/*.ckpt"))
    assert (place / "fold_0" / "predicted").exists()
    assert not (place / "fold_1" / "trained").exists()
    before = (place / "fold_0.txt").read_bytes()

    printed = run(project, "folds.py", *WORDS)
    assert (place / "fold_0.txt").read_bytes() == before
    again = (place / "fold_1.txt").read_text()
    assert again.count("Epoch 1/30") == 1 and "Epoch 30/30" in again

    values = []
    for fold in range(FOLDS):
        logged = [row["val_score"] for row in table(place / f"fold_{fold}" / "metrics.csv")]
        values.append(max(float(value) for value in logged if value))
        assert f"fold {fold}  val_score {values[-1]:.4f}\n" in printed
    assert f"mean    val_score {sum(values) / FOLDS:.4f}, deviation " in printed

    oof = table(place / "oof.csv")
    assert [row["key"] for row in oof] == [f"{n:03d}" for n in range(ROWS)]
    right = sum(row["kind"] == row["truth"] for row in oof) / ROWS
    assert f"all {ROWS} rows together: accuracy {right:.4f}, macro-F1 " in printed
    assert not_seen(place, package, oof)

    submission = table(place / "submission.csv")
    means = table(place / "test_predictions.csv")
    parts = [table(place / f"fold_{fold}/test/predictions.csv") for fold in range(FOLDS)]
    assert [row["key"] for row in submission] == [f"{n:03d}" for n in range(ROWS, ROWS + 20)]
    assert submission[0].keys() == {"key", "kind"}
    for number, row in enumerate(means):
        mean = sum(float(part[number]["p_s"]) for part in parts) / FOLDS
        assert float(row["p_s"]) == pytest.approx(mean, abs=1e-6)
        assert row["kind"] == submission[number]["kind"] == ("s" if mean > 0.5 else "b")

    assert run(project, "folds.py", *WORDS) == printed  # nothing is trained again
    with (project / "rows.csv").open("a") as file:
        file.write("900,0.9,b\n")
    printed = run(project, "folds.py", "--trainer.max_epochs=1")
    assert f"{FOLDS} folds in runs/folds_1;" in printed
    assert len(table(project / "runs/folds_1/oof.csv")) == ROWS + 1


def not_seen(place: Path, package, oof: list[dict[str, str]]) -> bool:
    """The predictions of a fold are those of its best checkpoint, and it did not train on their rows."""
    data, model = package
    for fold in range(FOLDS):
        words = {"target": "kind", "classify": True, "id": "key", "test": "test.csv"}
        module = data.TabularDataModule("rows.csv", **words, fold=fold, folds=FOLDS)
        module.setup("predict")
        rows = {row["key"]: float(row["p_b"]) for row in oof if row["fold"] == str(fold)}
        assert rows.keys() == {*module.val.ids}
        assert not rows.keys() & {*module.train.ids}
        (best,) = (place / f"fold_{fold}" / "checkpoints").glob("epoch*.ckpt")
        made = model.TabularModel.load_from_checkpoint(best).eval()
        with torch.no_grad():
            chances = made(module.val.tensors[0]).softmax(dim=1)[:, 0].tolist()
        for key, chance in zip(module.val.ids, chances, strict=True):
            assert rows[key] == pytest.approx(chance, abs=1e-5)
    return True


@pytest.mark.slow
def test_a_mistake_is_named_before_anything_trains(project: Path) -> None:
    printed = run(project, "folds.py", "--trainer.max_epoch=1", code=1)
    assert "error: unknown option --trainer.max_epoch. Did you mean" in printed
    printed = run(project, "folds.py", "--data.folds=1", code=1)
    assert "error: fold 0 ended early, see runs/folds_" in printed
    assert "error: data.fold is 0 and data.folds 1" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_data_without_folds_are_refused(tmp_path: Path) -> None:
    scaffold(tmp_path, "new", "ts", "--task", "time-series", "--extras", "folds", "--no-git")
    printed = run(tmp_path / "ts", "folds.py", code=1)
    assert printed.startswith("error: the data module takes no `fold`. Give it `fold` and")
    assert not (tmp_path / "ts" / "runs").exists()
