"""Stubs for the user's own code: typed, formatted, linted, and never touched again."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

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


@pytest.mark.parametrize("batch", [{"x": [1, 2, 3], "y": [4]}, [[1, 2, 3], [4]]])
def test_samples_are_counted_in_batches_of_names_too(project, batch):
    """Batches that are dicts, as from collate functions of transformers."""
    project("add", "callback", "mine", "--custom")
    mine = runpy.run_path("my_exp/mine.py")["Mine"]()
    mine.on_train_batch_end(None, Mock(), None, batch, 0)
    assert mine.samples == 3


@pytest.mark.parametrize(("kind", "part"), [("module", "model"), ("datamodule", "data")])
def test_a_second_one_begins_with_the_arguments_of_the_first(project, kind, part):
    Path(f"configs/{part}.yaml").write_text("# of mine\nlr: 7\n\nnested:\n  x: 1\n")
    project("add", kind, "resnet")
    config = yaml.safe_load(Path(f"configs/{part}/resnet.yaml").read_text())
    assert config["class_path"] == f"my_exp.{FOLDERS[kind][:-1]}.resnet.Resnet"
    assert config["init_args"] == {"lr": 7, "nested": {"x": 1}}


ARGUMENTS = {"lr": 7, "text": "a\n\nb\n"}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("---\nlr: 7 # high\n", {"lr": 7}),
        ("\ufefflr: 7\n", {"lr": 7}),
        ("lr: 7\ntext: |\n  a\n\n  b\n", ARGUMENTS),
        ("{lr: 7, text: 'a\n\n\n  b\n\n  '}", ARGUMENTS),
        ("- &x lr\n", None),
        ("lr: [7\n", None),
        ("lr: 7\n---\nlr: 8\n", None),
        ("class_path: my_exp.model.ImageClassifier\ninit_args:\n  lr: 7\n", {"lr": 7}),
        ("class_path: my_exp.model.ImageClassifier\n", {}),
    ],
)
def test_arguments_in_any_form_of_yaml(project, text, arguments):
    Path("configs/model.yaml").write_text(text)
    ran = project("add", "module", "resnet")
    if arguments is None:
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert "`configs/model.yaml`" in ran.err
        assert not Path("my_exp/models").exists()
    else:
        written = Path("configs/model/resnet.yaml").read_text()
        assert yaml.safe_load(written)["init_args"] == arguments
        assert ("# high" in text) == ("# high" in written)  # comments stay where lines can


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


def edit(path: str, **becomes: str) -> None:
    text = Path(path).read_text()
    for old, new in becomes.items():
        text = text.replace(old, new)
    Path(path).write_text(text)


def renamed() -> None:
    """Rename each class, as an editor does."""
    for path in ("my_exp/model.py", "my_exp/data.py", "train.py"):
        edit(path, ImageClassifier="DigitNet", ImageDataModule="Digits")


def moved() -> None:
    """Move the model into a package that exports it, with relative imports."""
    Path("my_exp/nets").mkdir()
    Path("my_exp/model.py").rename("my_exp/nets/classifier.py")
    edit("my_exp/nets/classifier.py", **{"from my_exp.augment": "from ..augment"})
    Path("my_exp/nets/__init__.py").write_text("from .classifier import ImageClassifier\n")
    edit("train.py", **{"my_exp.model": "my_exp.nets"})


def by_attribute() -> None:
    """train.py imports modules instead of classes, and defines the model itself."""
    body = "import my_exp.data as d\nfrom scaffold_runtime import cli\n"
    body += Path("my_exp/model.py").read_text()
    body += "if __name__ == '__main__':\n    cli.run(ImageClassifier, d.ImageDataModule)\n"
    Path("my_exp/model.py").unlink()
    Path("train.py").write_text(body)


@pytest.mark.parametrize("change", [renamed, moved, by_attribute])
def test_it_begins_with_the_classes_that_the_script_names(project, change):
    change()
    for kind in STUBS:
        assert project("add", kind, f"my-{kind}", "--custom").code == 0
    assert project("add", "extra", "notebook").code == 0
    cells = json.loads(Path("notebooks/train.ipynb").read_text())["cells"]
    lines = [line for cell in cells for line in cell["source"] if line.startswith("from")]
    written = ["my_callback", "my_logger", "models.my_module", "datamodules.my_datamodule"]
    lines += [f"import my_exp.{name}\n" for name in written]
    lines += [f"import tests.test_my_{kind}\n" for kind in STUBS]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in project("update").out


def test_what_configs_name_goes_before_what_the_script_names(project):
    Path("my_exp/other.py").write_text("class Other:\n    pass\n")
    Path("configs/model.yaml").write_text("class_path: my_exp.other.Other\n")
    project("add", "module", "resnet")
    assert "class Resnet:" in Path("my_exp/models/resnet.py").read_text()


@pytest.mark.parametrize("kind", STUBS)
def test_a_class_that_is_not_there_is_one_clear_error(project, kind):
    edit("my_exp/model.py", ImageClassifier="DigitNet")
    edit("my_exp/data.py", ImageDataModule="Digits")
    ran = project("add", kind, "mine", "--custom")
    assert (ran.code, len(ran.err.splitlines())) == (1, 2)
    assert "there is no `class Image" in ran.err
    assert not list(Path().rglob("*mine*"))


def test_where_all_files_have_crlf_stubs_have_it(project):
    for path in filter(Path.is_file, Path().rglob("*")):
        if ".scaffold" not in path.parts:
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    for kind in STUBS:
        project("add", kind, f"my-{kind}", "--custom")
        for path in Path().rglob(f"my_{kind}*"):
            data = path.read_bytes()
            assert b"\r\n" in data and b"\n" not in data.replace(b"\r\n", b""), path


def test_the_copy_of_a_file_in_another_encoding_is_utf_8(project):
    model = Path("my_exp/model.py")
    text = f"# -*- coding: latin-1 -*-\nSIZE = 'größe'\n{model.read_text()}"
    model.write_bytes(text.encode("latin-1"))
    assert project("add", "module", "resnet").code == 0
    run = "from my_exp.models.resnet import SIZE; assert SIZE == 'gr\\xf6\\xdfe'"
    subprocess.run([sys.executable, "-c", run], check=True)


@pytest.mark.parametrize("first", [b"# gr\xf6\xdfe\n", b"# coding: rot13\n", b"# coding: x\n"])
def test_a_file_that_cannot_be_decoded_is_one_clear_error(project, first):
    Path("my_exp/model.py").write_bytes(first + Path("my_exp/model.py").read_bytes())
    ran = project("add", "module", "resnet")
    assert (ran.code, len(ran.err.splitlines())) == (1, 2)
    assert "`my_exp/model.py`, or Python cannot read it" in ran.err


def test_a_form_feed_does_not_hide_an_import_by_dots(project):
    edit("my_exp/model.py", **{"from my_exp.augment": "\x0c\nfrom .augment"})
    project("add", "module", "resnet")
    assert "from my_exp.augment import" in Path("my_exp/models/resnet.py").read_text()


def test_a_date_that_there_is_not_is_one_clear_error(project):
    Path("configs/model.yaml").write_text("start: 2026-13-45\n")
    ran = project("add", "module", "resnet")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "`configs/model.yaml` does not hold" in ran.err


def test_modules_that_import_each_other_in_a_circle_come_to_an_end(project):
    Path("my_exp/model.py").write_text("from my_exp.model import ImageClassifier\n")
    assert "there is no `class ImageClassifier`" in project("add", "module", "x").err


@pytest.mark.parametrize(
    ("name", "becomes"),
    [("ResNet", "ResNet"), ("my-ResNet", "MyResNet"), ("my_package", "MyPackage")],
)
def test_the_class_keeps_the_case_of_the_name(project, name, becomes):
    assert project("add", "module", name).code == 0
    stem = name.lower().replace("-", "_")
    assert f"class {becomes}(" in Path(f"my_exp/models/{stem}.py").read_text()
    assert stem in Path(f"configs/model/{stem}.yaml").read_text()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("callback", name) for name in ("trainer", "callback", "any", "image-classifier")),
        *(("logger", name) for name in ("logger", "path", "any")),
        *(("module", name) for name in ("tensor", "lightning-module", "trainer")),
    ],
)
def test_a_class_does_not_shadow_what_its_file_uses(project, kind, name):
    ran = project("add", kind, name, "--custom")
    assert (ran.code, "means something else" in ran.err) == (1, True)


def test_a_module_and_a_folder_of_one_name_do_not_hide_each_other(project):
    Path("my_exp/models.py").touch()
    assert "`my_exp/models.py` already exists" in project("add", "module", "x").err
    project("add", "datamodule", "x")
    assert (
        "`my_exp/datamodules` already exists"
        in project("add", "logger", "datamodules", "--custom").err
    )


@pytest.mark.parametrize(
    "name",
    ["class", "a b", "1x", "../x", "x/y", "", "a\nb", "none", "true", "con", "x" * 65, "x" * 300],
)
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
    assert "`my_exp/model.py` already exists" in project("add", "callback", "model", "--custom").err


def test_only_some_kinds_have_stubs(project):
    assert "unknown stub `strategy`" in project("add", "strategy", "x", "--custom").err
