"""A project whose line length is another than that of the templates."""

import shutil
from pathlib import Path

import black
import pytest

from scaffold.catalogue import Catalogue, packaged


def reformat(length: int) -> None:
    """The user's own setting, and their formatter run over all files."""
    settings = Path("pyproject.toml")
    settings.write_text(settings.read_text().replace("= 88", f"= {length}"))
    for path in Path().rglob("*.py"):
        path.write_text(kept(path, length))


def kept(path: Path, length: int) -> str:
    return black.format_str(path.read_text(), mode=black.Mode(line_length=length))


@pytest.fixture
def sweep(scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--task", "blank", "--extras", "sweep", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    return Path("sweep.py")


@pytest.mark.parametrize("length", [79, 120])
def test_what_is_added_is_formatted_as_the_project_is(scaffold, sweep, length):
    reformat(length)
    assert scaffold("add", "extra", "folds").out.count(".py") == 3
    for words in (("extra", "notebook"), ("module", "second"), ("callback", "mine", "--custom")):
        assert scaffold("add", *words).code == 0
    for path in Path().rglob("*.py"):
        assert path.read_text() == kept(path, length), path


def test_what_was_only_formatted_is_no_edit(scaffold, sweep):
    reformat(120)
    assert scaffold("remove", "extra", "sweep").code == 0
    assert not sweep.exists()
    assert "optuna" not in Path("pyproject.toml").read_text()


def test_newer_templates_are_merged_in_the_length_of_the_project(
    scaffold, sweep, monkeypatch, tmp_path
):
    reformat(120)
    sweep.write_text(sweep.read_text() + "# mine\n")
    before = sweep.read_text()
    newer = shutil.copytree(packaged().root, tmp_path / "templates")
    source = newer / "features/extra/sweep/sweep.py.jinja"
    old, new = 'encoding="utf-8"\n    )', 'encoding="utf-8", check=False\n    )'
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    monkeypatch.setattr("scaffold.change.packaged", lambda: Catalogue(newer))
    assert scaffold("update").code == 0
    one_line = 'capture_output=True, encoding="utf-8"'
    assert one_line in before
    assert sweep.read_text() == before.replace(one_line, f"{one_line}, check=False")


def test_what_is_not_formatted_at_that_length_stays_so(scaffold, sweep):
    """Some set a length for the linter alone."""
    settings, before = Path("pyproject.toml"), sweep.read_text()
    settings.write_text(settings.read_text().replace("= 88", "= 120"))
    assert scaffold("add", "callback", "ema").out.count("\n") == 2
    assert sweep.read_text() == before
    assert scaffold("remove", "extra", "sweep").code == 0
    assert not sweep.exists()
