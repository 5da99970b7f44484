"""Every task of the gallery: rendered, linted, tested by itself, trained for two batches, resumed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scaffold.catalogue import packaged
from scaffold.cli import main

TASKS = sorted(packaged().tasks)
TWO_BATCHES = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
]
EACH = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    print("$ train.py", *words, flush=True)
    sys.argv = ["train.py", *words]
    runpy.run_path("train.py", run_name="__main__")
"""
Mypy = Callable[[Path], str]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.fixture(scope="module", params=TASKS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["new", "my-exp", "--task", request.param, "--defaults", "--no-git"])
    finally:
        os.chdir(before)
    assert not ended.value.code
    return folder / "my-exp"


def run(project: Path, *words: str, code: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def test_small_enough_to_read(project: Path) -> None:
    """Data in at most 40 lines, a model in at most 120."""
    assert lines(project / "train.py") <= 10
    assert lines(project / "my_exp" / "data.py") <= 40
    assert lines(project / "my_exp" / "model.py") <= 120
    assert max(lines(file) for file in (project / "my_exp").glob("*.py")) <= 130


def test_formatted_and_linted(project: Path) -> None:
    run(project, "-m", "ruff", "check", ".")
    run(project, "-m", "ruff", "format", "--check", ".")
    run(project, "-m", "black", "--check", "--quiet", ".")


@pytest.mark.slow
def test_typed(project: Path, mypy: Mypy) -> None:
    """Including its tests."""
    assert "Success: no issues" in mypy(project)


@pytest.mark.slow
def test_a_misspelt_name_is_a_type_error(tmp_path: Path, mypy: Mypy) -> None:
    """`import scaffold_runtime as L` imports lazily, but type checkers see all names."""
    (tmp_path / "names.py").write_text(
        "import scaffold_runtime as L\n"
        "L.Trainer(callbacks=[L.callbacks.EarlyStopping('loss')], strategy=L.strategies.FSDPStrategy())\n"
        "L.pytorch.LightningModule()\n"
        "L.Trianer()\n"
        "L.callbacks.EarlyStoping('loss')\n"
        "L.strategies.FSDPStrategi()\n"
    )
    said = mypy(tmp_path)
    assert re.findall(r"names.py:(\d+): .*; maybe", said) == ["4", "5", "6"], said
    assert "Found 3 errors" in said


def test_what_draws_is_imported_when_it_draws(project: Path) -> None:
    """Importing matplotlib must not delay the first step."""
    for file in (project / "my_exp").glob("*.py"):
        top = ast.parse(file.read_text()).body
        names = [node.module for node in top if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name and name.startswith("matplotlib")], file


@pytest.mark.slow
def test_passes_its_own_tests(project: Path) -> None:
    """Without warnings."""
    run(project, "-m", "pytest", "-q", "-W", "error")


BREAKS = {  # what makes resuming exact, and what is left without it
    "reinforcement-learning": ("play.py", 'list(state["parts"])', "[]"),
    "finetune": ("pretraining.py", "with isolate_rng():", "with torch.enable_grad():"),
}


def test_has_a_proof_of_exact_resume(project: Path) -> None:
    assert "check_resume(" in (project / "tests" / "test_resume.py").read_text()


@pytest.mark.slow
def test_its_proof_finds_what_is_broken(project: Path, request: pytest.FixtureRequest) -> None:
    task = request.node.callspec.params["project"]
    if task not in BREAKS:
        pytest.skip(
            "only tasks with a state of their own are broken here; others rest on the engine"
        )
    name, good, bad = BREAKS[task]
    file = project / "my_exp" / name
    text = file.read_text()
    assert good in text
    file.write_text(text.replace(good, bad))
    try:
        printed = run(project, "-m", "pytest", "-q", "tests/test_resume.py", code=1)
    finally:
        file.write_text(text)
    assert "differs after resuming" in printed


@pytest.mark.slow
def test_two_batches_then_resumed_then_every_command(
    project: Path, quick: dict[str, list[str]], request: pytest.FixtureRequest
) -> None:
    """With warnings as errors; in one process, so that libraries are imported once."""
    last = "--ckpt_path=last"
    commands = [
        [*TWO_BATCHES],
        ["fit", *TWO_BATCHES, last, "--trainer.max_epochs=2"],
        ["test", last, "--trainer.limit_test_batches=1"],
        ["predict", last, "--trainer.limit_predict_batches=1"],
        # without validation, where there is nothing to compare with the baseline of the task
        [*TWO_BATCHES, "--trainer.check_val_every_n_epoch=2"],
    ]
    small = quick.get(request.node.callspec.params["project"], [])
    words = json.dumps([[*command, *small] for command in commands])
    printed = run(project, "-W", "error", "-c", EACH, words)
    first, resumed, _, predicted, unvalidated = printed.split("$ train.py")[1:]
    assert "run folder" in first
    assert "Epoch 2/2" in resumed
    assert "predictions written to" in predicted
    assert "run folder" in unvalidated


def test_examples_are_what_the_templates_render() -> None:
    """`python tools/examples.py` updates them."""
    tool = Path(__file__).parents[2] / "tools" / "examples.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
