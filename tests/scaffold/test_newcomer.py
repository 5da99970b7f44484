"""Problems that newcomers had, in a project of the current templates."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def project(scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    return scaffold


def test_a_resolved_change_can_be_undone(project):
    """`resolve` deletes the list of open conflicts; `undo` must not take that for a change by hand."""
    before = Path("configs/loggers/tensorboard.yaml").read_bytes()
    edit = Path("pyproject.toml")
    edit.write_text(edit.read_text().replace("tensorboard>=2.14", "tensorboard==2.14"))
    mine = edit.read_bytes()
    assert project("remove", "logger", "tensorboard", "--conflict", "markers").code == 2
    edit.write_bytes(mine)
    assert project("resolve").code == 0
    assert project("undo").code == 0
    assert Path("configs/loggers/tensorboard.yaml").read_bytes() == before
    assert edit.read_bytes() == mine


def test_what_the_user_began_is_listed_and_not_removed(project):
    """The same for configs that come with the task."""
    project("add", "callback", "my-own", "--custom")
    project("add", "module", "resnet")
    listed = json.loads(project("list", "--json").out)["features"]
    states = {each["name"]: each["state"] for each in listed}
    assert (states["my_own"], states["confusion_matrix"]) == ("yours", "on")
    for kind, name, path in (
        ("callback", "my-own", "configs/callbacks/my_own.yaml"),
        ("module", "resnet", "configs/model/resnet.yaml"),
    ):
        refused = project("remove", kind, name)
        assert refused.code == 1
        assert f"`{name}` is your own: delete `{path}`" in refused.err
        assert Path(path).exists()
    path = "configs/callbacks/confusion_matrix.yaml"
    for name in ("confusion_matrix", "confusion-matrix"):
        refused = project("remove", "callback", name)
        assert f"`{name}` comes with the task: delete `{path}`" in refused.err
    Path(path).unlink()
    assert "confusion_matrix" not in project("list").out
    assert "did you mean `early-stopping`" in project("remove", "callback", "early_stopping").err


def test_many_files_of_one_folder_are_one_line(project):
    said = project("update", "--runtime", "vendored").out
    assert re.search(r"^  create    scaffold_runtime/  \(\d{2,} files\)$", said, re.MULTILINE)
    assert len(said.splitlines()) < 10
    steps = json.loads(project("undo", "--json").out)["steps"]
    assert len(steps) > 50  # other programs get all of them


def test_an_edited_config_that_stays_is_said_to_be_on(project):
    """A file in configs/callbacks is active, whatever the answers say."""
    config = Path("configs/callbacks/early_stopping.yaml")
    config.write_text(config.read_text().replace("patience: 5", "patience: 9"))
    said = project("remove", "callback", "early-stopping").out
    assert "edited, so it stays and is still on; delete it to switch it off" in said


def on_a_terminal(*words: str, **env: str) -> str:
    """The output on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "scaffold", *words],
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm-256color", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    child.wait(timeout=60)
    return shown.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["diff"],
        ["doctor"],
        ["add", "callback", "ema", "--dry-run"],
        ["remove", "callback", "early-stopping", "--dry-run"],
        ["remove", "callback", "nothing"],
        ["update"],
        ["resolve"],
        ["undo", "--dry-run"],
        ["new", "another", "--defaults", "--dry-run"],
    ],
    ids=lambda words: words[0],
)
def test_each_command_on_a_terminal(project, words):
    """The same words with colours, with NO_COLOR and in a pipe; nothing is wider than the terminal."""
    config = Path("configs/callbacks/early_stopping.yaml")
    config.write_text(config.read_text().replace("patience: 5", "patience: 9"))
    Path("train.py").write_text("print(1)\n")  # the doctor then says more, and sooner
    coloured, plain = on_a_terminal(*words), on_a_terminal(*words, NO_COLOR="1")
    ran = project(*words)
    assert "\x1b" not in plain + ran.out + ran.err
    free = r"\d+ [GM]B of disk"  # others write, too
    assert re.sub(free, "", re.sub(r"\x1b\[\d*m", "", coloured)) == re.sub(free, "", plain)
    # a pipe gets whole lines, a terminal may break them between words
    assert "".join(plain.split()) == "".join((ran.out + ran.err).split())
    as_long_as_it_takes = ["remove", "callback", "nothing"], ["diff"]  # an error, a file
    if words not in as_long_as_it_takes:
        assert max(map(len, plain.splitlines())) <= 80
