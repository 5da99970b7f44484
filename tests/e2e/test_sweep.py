"""`scaffold add extra sweep`, then `python sweep.py`: real trainings, two at a time, killed and continued."""

from __future__ import annotations

import csv
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

TrialState = optuna.trial.TrialState
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
SPACE = "model.lr: {low: 1e-3, high: 0.3, log: true}\ndata.batch_size: {choices: [16, 32]}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    new = ("new", "my-exp", "--task", "blank", "--defaults", "--no-git")
    run(folder, "-m", "scaffold", *new)
    run(folder / "my-exp", "-m", "scaffold", "add", "extra", "sweep")
    (folder / "my-exp" / "configs" / "sweep.yaml").write_text(SPACE)
    return folder / "my-exp"


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
    return done.stderr + done.stdout


@contextmanager
def the_study(project: Path) -> Iterator[optuna.Study | None]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{project}/runs/sweep/study.db")
    try:
        names = optuna.get_all_study_names(storage)
        yield optuna.load_study(study_name=names[0], storage=storage) if names else None
    finally:
        storage.engine.dispose()  # Python 3.13 and newer warn of connections that are left open


def trials(project: Path, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    if not any((project / "runs" / "sweep").glob("*.txt")):
        return []  # no trial has begun; to look into the storage while it is made disturbs it
    with the_study(project) as study:
        return study.get_trials(states=states or None) if study else []


def lowest(project: Path, folder: str, metric: str = "val_loss") -> float:
    with (project / folder / "metrics.csv").open() as file:
        return min(float(row[metric]) for row in csv.DictReader(file) if row[metric])


@pytest.fixture
def killed(project: Path) -> list[int]:
    """Kill a sweep and its trainings after two trials; returns the numbers of the finished trials."""
    words = [sys.executable, "sweep.py", "--trials", "6", "--workers", "2"]
    sweep = subprocess.Popen(words, cwd=project, env=ENVIRONMENT, start_new_session=True)
    try:
        patience = time.monotonic() + 200
        while len(trials(project, TrialState.COMPLETE)) < 2:
            assert sweep.poll() is None and time.monotonic() < patience
            time.sleep(0.2)
    finally:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait(timeout=20)
    over = [trial.number for trial in trials(project, TrialState.COMPLETE)]
    assert len(over) < 6
    return over


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_prunes_and_says_how_to_have_the_best_again(
    project: Path, killed: list[int]
) -> None:
    before = {trial.number: trial.value for trial in trials(project) if trial.number in killed}
    printed = run(project, "sweep.py", "--trials", "6", "--workers", "2")
    over = trials(project, TrialState.COMPLETE, TrialState.PRUNED)
    assert len(over) == 6, "".join(
        file.read_text()[-1500:] for file in sorted((project / "runs" / "sweep").glob("*.txt"))
    )
    assert before.items() <= {trial.number: trial.value for trial in over}.items()
    times = sorted((trial.datetime_start, trial.datetime_complete) for trial in over)
    assert any(ended > began for (_, ended), (began, _) in itertools.pairwise(times))

    complete = trials(project, TrialState.COMPLETE)
    best = min(complete, key=lambda trial: trial.value)
    assert lowest(project, best.user_attrs["folder"]) == best.value
    again = shlex.split(printed.strip().splitlines()[-1])
    assert again[:3] == ["python", "train.py", "fit"]
    assert f"--model.lr={best.params['model.lr']}" in again
    newest = f"runs/version_{len(list((project / 'runs').glob('version_*')))}"
    run(project, *again[1:])
    assert lowest(project, newest) == best.value

    add_good_trials(project, best)
    run(project, "sweep.py", "--trials", str(len(over) + 11))
    (pruned,) = (trial for trial in trials(project, TrialState.PRUNED) if trial not in over)
    assert len(pruned.intermediate_values) == 1
    with (project / pruned.user_attrs["folder"] / "metrics.csv").open() as file:
        assert len([row for row in csv.DictReader(file) if row["val_loss"]]) == 1


def add_good_trials(project: Path, like: optuna.trial.FrozenTrial) -> None:
    """Add ten trials better than any real one, so that the next trial is pruned at once."""
    with the_study(project) as study:
        for _ in range(10):
            made = optuna.trial.create_trial(
                params=like.params,
                distributions=like.distributions,
                value=-1.0,
                intermediate_values=dict.fromkeys(range(5), -1.0),
                user_attrs=like.user_attrs,
            )
            study.add_trial(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "words", "says"),
    [
        ("model.lrr: {low: 1, high: 2}", [], "configs/sweep.yaml: unknown option --model.lrr. Did"),
        ("model.lr: {choices: [0.1, fast]}", [], "configs/sweep.yaml: model.lr: expected float"),
        ("model.lr: {low: 2, high: 1}", [], "configs/sweep.yaml: model.lr is not like {low"),
        ("model.lr: {low: 1}", [], "configs/sweep.yaml: model.lr is not like {low"),
        ("- x", [], "configs/sweep.yaml: each line must be like model.lr: {low"),
        ("model.lr: 0.1", [], "configs/sweep.yaml: model.lr is not like {low"),
        (SPACE, ["--trails", "3"], "error: unknown option --trails"),
    ],
)
def test_a_mistake_is_named_before_anything_trains(
    project: Path, space: str, words: list[str], says: str
) -> None:
    file = project / "configs" / "sweep.yaml"
    file.write_text(space)
    try:
        printed = run(project, "sweep.py", *words, code=1)
    finally:
        file.write_text(SPACE)
    assert says in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("words", [("--trials", "0"), ("--workers", "0")])
def test_no_trials_at_all_are_refused(project: Path, words: tuple[str, ...]) -> None:
    assert "--trials and --workers are at least 1" in run(project, "sweep.py", *words, code=2)


@pytest.mark.slow
def test_a_monitor_that_is_not_logged_is_named(project: Path) -> None:
    """sweep.py has the metric of the task, but the model may be edited to log another name."""
    file = project / "sweep.py"
    text = file.read_text()
    file.write_text(text.replace('"val_loss"', '"val_los"'))
    try:
        run(project, "sweep.py", "--trials", "1", "--trainer.max_epochs=1", code=1)
    finally:
        file.write_text(text)
    newest = max((project / "runs/sweep").glob("*.txt"), key=lambda path: path.stat().st_mtime)
    said = newest.read_text()
    assert "error: MONITOR of sweep.py is 'val_los', which is not logged: choose" in said
    assert "val_loss" in said and "Traceback" not in said
