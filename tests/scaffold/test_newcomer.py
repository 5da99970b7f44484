"""What a newcomer stumbled over once, in a project of the present templates."""

import json
import re
from pathlib import Path

import pytest


@pytest.fixture
def project(scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    return scaffold


def test_a_resolved_change_can_be_undone(project):
    """`resolve` deletes the list of open conflicts, which is no change by hand."""
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
    """Also what the task brought beside the catalogue."""
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


def test_many_files_of_one_folder_are_one_line(project):
    said = project("update", "--runtime", "vendored").out
    assert re.search(r"^  create    scaffold_runtime/  \(\d{2,} files\)$", said, re.MULTILINE)
    assert len(said.splitlines()) < 10
    steps = json.loads(project("undo", "--json").out)["steps"]
    assert len(steps) > 50  # other programs get all of them
