"""`python -m scaffold_runtime.runs`: runs as a table, the best first."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from scaffold_runtime.report import commit
from scaffold_runtime.runs import main

ROWS = """epoch,step,train_loss,val_loss,val_acc,test_acc
0,1,2.0,,,
0,1,,0.9,0.5,
1,3,1.0,0.3,0.8,
2,5,0.5,0.6,0.7,
"""


def made(
    folder: Path, lr: float, rows: str = ROWS, monitor: str | None = "val_acc", **settings: object
) -> Path:
    options = {"monitor": monitor, "mode": "max"}
    callbacks = {
        "best": {"class_path": "scaffold_runtime.callbacks.ModelCheckpoint", "init_args": options}
    }
    config = {
        "ckpt_path": str(folder),
        "model": {"class_path": "Net", "init_args": {"lr": lr}},
        "callbacks": callbacks if monitor else None,
        **settings,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text(rows)
    return folder


def at(folder: Path, minute: int) -> Path:
    for file in folder.iterdir():
        os.utime(file, (60.0 * minute, 60.0 * minute))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Three runs, of which one is a fold, and the second is the best."""
    at(made(tmp_path / "version_0", 0.1), 1)
    at(made(tmp_path / "version_1", 0.2, ROWS.replace("0.3,0.8", "0.4,0.9")), 2)
    at(made(tmp_path / "folds_0" / "fold_0", 0.1, ROWS.replace("0.3,0.8", "nan,nan"), seed=3), 3)
    return tmp_path


def printed(capsys, *words: object) -> list[list[str]]:
    main([*map(str, words)])
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_best_comes_first_with_what_is_special_about_it(runs, capsys):
    head, *rows, last = printed(capsys, runs)
    assert head == ["run", "written", "steps", "val_acc", "val_loss", "unlike", "most"]
    assert [[row[0], *row[3:]] for row in rows] == [
        ["version_1", "6", "0.9", "0.4", "model.lr=0.2"],
        ["version_0", "6", "0.8", "0.3"],
        ["folds_0/fold_0", "6", "0.7", "0.6", "seed=3"],
    ]
    assert " ".join(last).startswith("val_acc is the highest of each run")


def test_a_damaged_run_is_a_row_too(runs, capsys):
    """Nothing is known of its settings, so the others do not differ from them."""
    (runs / "version_0" / "config.yaml").write_text("lr: [1\n")
    (runs / "version_0" / "hparams.yaml").write_text("lr: 0.1\n")
    with pytest.warns(UserWarning, match="version_0/config.yaml is left out, as it cannot be read"):
        _, *rows, _ = printed(capsys, runs)
    assert [[row[0], *row[6:]] for row in rows] == [
        ["version_1"],
        ["version_0"],
        ["folds_0/fold_0", "model.lr=0.1", "seed=3"],
    ]


def test_what_only_a_training_takes_of_a_checkpoint_is_no_setting(runs, capsys):
    made(runs / "test", 0.1, restore="all", restore_lr=None)
    assert "restore" not in str(printed(capsys, runs, "--csv"))


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["--by", "val_loss"], ["0.3", "0.4", "0.6"]),
        (["--by", "val_loss", "--mode", "max"], ["0.9", "0.9", "0.9"]),
        (["--mode", "min"], ["0.5", "0.5", "0.5"]),
        (["--by", "train_loss"], ["0.5", "0.5", "0.5"]),
    ],
)
def test_any_metric_may_be_what_they_are_sorted_by(runs, capsys, words, order):
    _, *rows, last = printed(capsys, runs, *words)
    assert [row[4] for row in rows] == order
    assert {"lowest", "highest"} & {*last} == {"highest" if order[0] == "0.9" else "lowest"}


def test_without_a_monitor_the_newest_comes_last(tmp_path, capsys):
    for minute, name in enumerate(["b", "c", "a"]):
        at(made(tmp_path / name, 0.1, monitor=None), minute)
    head, *rows = printed(capsys, tmp_path)
    assert [row[0] for row in rows] == ["b", "c", "a"]
    assert head[3:5] == ["val_acc", "val_loss"] and rows[0][4:6] == ["0.7", "0.6"]  # at their end


def test_what_only_evaluates_a_checkpoint_comes_last_without_steps(runs, capsys):
    """And does not count in what most runs have."""
    for number in range(4, 8):
        made(runs / f"version_{number}", 0.3, "epoch,step,val_loss,val_acc\n0,0,0.1,0.95\n")
    _, *rows, _ = printed(capsys, runs)
    assert [row[0] for row in rows[:3]] == ["version_1", "version_0", "folds_0/fold_0"]
    assert [row[5:] for row in rows[:2]] == [["0.4", "model.lr=0.2"], ["0.3"]]
    assert [row[3:] for row in rows[3:]] == [["0.95", "0.1"]] * 4


def test_a_test_is_shown_as_it_ended(runs, capsys):
    tested = ROWS + "3,6,,,,0.75\n"
    made(runs / "version_2", 0.1, tested)
    made(runs / "version_3", 0.1, "epoch,step,test_acc\n0,0,0.25\n")
    rows = {row[0]: row for row in printed(capsys, runs)}
    assert rows["version_2"][3:] == ["6", "0.8", "0.3", "0.75"]
    assert rows["version_3"][3:] == ["0.25"]


def test_a_spreadsheet_has_all_metrics_and_all_that_differs(runs, capsys):
    main([str(runs), "--csv"])
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [*rows[0]][3:] == ["val_acc", "train_loss", "val_loss", "model.lr", "seed"]
    found = {row["run"]: row for row in rows}
    assert found["version_0"]["model.lr"] == "0.1" and found["version_0"]["seed"] == ""
    assert found["version_0"]["train_loss"] == "1.0"  # of the step at which val_acc was best


def test_of_a_callback_that_few_runs_have_only_the_name_is_said(runs, capsys):
    """And nothing of a value that names the folder of the run itself."""
    stop = {"class_path": "mine.Stop", "init_args": {"patience": 3}}
    writer = {"class_path": "mine.Writer", "init_args": {"folder": f"{runs}/version_4/out"}}
    made(runs / "version_2", 0.1, callbacks={"stop": stop})
    made(runs / "version_3", 0.1, callbacks=None)
    made(runs / "version_4", 0.1, callbacks={"writer": writer})
    rows = {row[0]: row for row in printed(capsys, runs, "--by", "val_acc")}
    assert rows["version_2"][6:] == ["callbacks.stop=mine.Stop"]
    assert rows["version_4"][6:] == ["callbacks.writer=mine.Writer"]
    main([str(runs), "--csv"])
    assert "callbacks.stop.patience" in (said := capsys.readouterr().out)
    assert "callbacks.writer.folder" not in said


def test_other_configurations_are_read_too(tmp_path, capsys):
    """LightningCLI lists callbacks; what other tools call config.yaml has what it has, and lies in hidden folders."""
    best = {"class_path": "pl.callbacks.ModelCheckpoint", "init_args": {"monitor": "val_loss"}}
    made(tmp_path / "version_0", 0.1, monitor=None, trainer={"callbacks": [best, "x"]})
    made(tmp_path / "version_1", 0.1, monitor=None, callbacks=["x"], trainer="t")
    made(tmp_path / "version_2", 0.1, monitor=None, callbacks={"x": None, "y": {"_target_": "z"}})
    made(tmp_path / "version_2" / ".hydra", 0.1)
    _, *rows, last = printed(capsys, tmp_path)
    assert sorted(row[0] for row in rows) == ["version_0", "version_1", "version_2"]
    assert " ".join(last).startswith("val_loss is the lowest of each run")


def test_settings_of_a_script_are_its_hyperparameters(tmp_path, capsys):
    for lr in (0.1, 0.1, 0.2):
        folder = tmp_path / f"version_{len([*tmp_path.iterdir()])}"
        folder.mkdir()
        (folder / "metrics.csv").write_text(ROWS)
        (folder / "hparams.yaml").write_text(f"lr: {lr}\n")
    rows = printed(capsys, tmp_path, "--by", "val_loss")
    assert [row[6:] for row in rows[1:-1]] == [[], [], ["lr=0.2"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "val_los"], "no run in {runs} logged it. Did you mean `val_loss`?"),
        (["nowhere"], "nowhere contains no run"),
    ],
)
def test_mistakes_are_one_line(runs, capsys, monkeypatch, words, said):
    monkeypatch.chdir(runs)
    with pytest.raises(SystemExit) as stopped:
        main(words if words == ["nowhere"] else [str(runs), *words])
    assert stopped.value.code == 1
    assert said.format(runs=runs) in capsys.readouterr().err


def test_the_commit_of_a_run_is_the_projects(tmp_path, monkeypatch):
    """Without a repository, a commit or git there is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == {}
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
        (tmp_path / "train.py").write_text("one\n")
        subprocess.run(["git", *words.split()], check=True)
    head = subprocess.check_output(["git", "rev-parse", "--short=10", "HEAD"], text=True).strip()
    assert commit() == {"commit": head}
    (tmp_path / "train.py").write_text("two\n")
    assert commit() == {"commit": f"{head}-dirty"}
    monkeypatch.setenv("PATH", "")
    assert commit() == {}
