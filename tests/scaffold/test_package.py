"""A package folder that the user renamed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def project(scaffold, monkeypatch):
    """A project called `one`, with an edited `model.py`."""
    assert scaffold("new", "one", "--no-git").code == 0
    monkeypatch.chdir("one")
    with Path("one/model.py").open("a") as file:
        file.write("\n\nMINE = 1\n")
    return scaffold


def replace_everywhere() -> None:
    os.rename("one", "two")
    for path in Path().rglob("*"):
        if path.is_file() and ".scaffold" not in path.parts:
            path.write_bytes(path.read_bytes().replace(b"one.", b"two.").replace(b'"one', b'"two'))


def say_so() -> None:
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("name: one\n", "name: two\n"))


def test_no_second_package_is_started(project):
    replace_everywhere()
    for words in (
        ("add", "callback", "prediction-writer"),
        ("add", "module", "resnet"),
        ("add", "callback", "mine", "--custom"),
    ):
        ran = project(*words)
        assert ran.code == 1
        assert "`one/` no longer exists" in ran.err
        assert "`name:` in `.scaffold/answers.yml`, then run `scaffold update`" in ran.err
        assert not Path("one").exists()
    assert project("add", "callback", "ema").code == 0  # nothing of it lies in the package
    assert "the package `one/` no longer exists" in project("doctor").out


def test_update_goes_on_with_the_new_name(project):
    replace_everywhere()
    say_so()
    ran = project("update")
    assert ran.code == 0, ran.err
    assert not list(Path().rglob("*.new"))
    assert "MINE = 1" in Path("two/model.py").read_text()
    assert project("add", "callback", "prediction-writer").code == 0
    assert Path("two/prediction_writer.py").is_file()
    own = project("diff").out
    assert "Your changes: 1 file\n" in own
    assert "+MINE = 1" in own
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/test_smoke.py"])
    assert done.returncode == 0


def test_the_new_name_alone_is_half_of_it(project):
    say_so()
    ran = project("update")
    assert ran.code == 1
    assert "rename `one/` to that" in ran.err
    os.rename("one", "two")  # imports are of templates: `update` replaces those that nobody edited
    assert project("update").code == 0
    assert "from two.model import" in Path("train.py").read_text()
    assert "MINE = 1" in Path("two/model.py").read_text()
