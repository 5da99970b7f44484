"""Stubs of one's own: typed, formatted, linted, and the user's from the start."""

import subprocess
import sys
from pathlib import Path

import black
import pytest
import yaml

from scaffold.stubs import STUBS

FOLDERS = {"module": "models/", "datamodule": "datamodules/"}


@pytest.fixture
def project(scaffold, monkeypatch):
    scaffold("new", "my-exp", "--no-git")
    monkeypatch.chdir("my-exp")
    return scaffold


@pytest.mark.parametrize("kind", STUBS)
@pytest.mark.parametrize("name", ["a", "zz-top", "resnet_18"])
def test_a_stub_is_clean_and_has_a_test(project, kind, name):
    assert project("add", kind, name, "--custom").code == 0
    stem = name.replace("-", "_")
    for path in (f"my_exp/{FOLDERS.get(kind, '')}{stem}.py", f"tests/test_{stem}.py"):
        text = Path(path).read_text()
        assert black.format_str(text, mode=black.Mode(line_length=88)) == text
        assert "my_stub" not in text.lower().replace("mystub", "my_stub")
    lint = subprocess.run([sys.executable, "-m", "ruff", "check", "."], capture_output=True)
    assert lint.returncode == 0, lint.stdout.decode()


@pytest.mark.parametrize("kind", ["callback", "logger"])
def test_its_config_carries_its_name(project, kind):
    project("add", kind, "my-own", "--custom")
    config = yaml.safe_load(Path(f"configs/{kind}s/my_own.yaml").read_text())
    assert config["class_path"] == "my_exp.my_own.MyOwn"


@pytest.mark.parametrize(("kind", "part"), [("module", "model"), ("datamodule", "data")])
def test_a_second_one_begins_with_the_arguments_of_the_first(project, kind, part):
    Path(f"configs/{part}.yaml").write_text("# of mine\nlr: 7\n\nnested:\n  x: 1\n")
    project("add", kind, "resnet")
    config = yaml.safe_load(Path(f"configs/{part}/resnet.yaml").read_text())
    assert config["class_path"] == f"my_exp.{FOLDERS[kind][:-1]}.resnet.Resnet"
    assert config["init_args"] == {"lr": 7, "nested": {"x": 1}}


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_a_second_one_without_arguments(project, text):
    Path("configs/model.yaml").unlink()
    if text is not None:
        Path("configs/model.yaml").write_text(text)
    project("add", "module", "resnet")
    assert yaml.safe_load(Path("configs/model/resnet.yaml").read_text())["init_args"] == {}


def test_no_later_change_touches_it(project):
    project("add", "callback", "mine", "--custom")
    Path("my_exp/mine.py").write_text("mine = 1\n")
    assert "Nothing to do" in project("update").out
    project("add", "callback", "ema")
    assert Path("my_exp/mine.py").read_text() == "mine = 1\n"


def test_undo_takes_an_unedited_stub_away(project):
    project("add", "module", "resnet")
    assert Path("my_exp/models/resnet.py").exists()
    project("undo")
    assert not Path("my_exp/models").exists()


@pytest.mark.parametrize("name", ["class", "a b", "1x", "../x", "x/y", "", "a\nb"])
def test_bad_names_write_nothing(project, name):
    before = sorted(Path().rglob("*.py"))
    ran = project("add", "module", "--", name)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert sorted(Path().rglob("*.py")) == before


def test_one_that_is_there_stays_as_it_is(project):
    project("add", "module", "resnet")
    Path("my_exp/models/resnet.py").write_text("mine = 1\n")
    assert "exists, choose another name" in project("add", "module", "resnet").err
    assert Path("my_exp/models/resnet.py").read_text() == "mine = 1\n"
    assert "`my_exp/model.py` exists" in project("add", "callback", "model", "--custom").err


def test_only_some_kinds_have_stubs(project):
    assert "there is no stub `strategy`" in project("add", "strategy", "x", "--custom").err
