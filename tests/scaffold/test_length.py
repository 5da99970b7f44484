"""Projects that are formatted differently from the templates."""

import re
import shutil
import subprocess
import sys
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


OLD, NEW = 'encoding="utf-8"\n    )', 'encoding="utf-8", check=False\n    )'


def newer(monkeypatch, tmp_path) -> None:
    """Templates that changed a call which formatters break into lines."""
    templates = shutil.copytree(packaged().root, tmp_path / "templates")
    source = templates / "features/extra/sweep/sweep.py.jinja"
    assert OLD in source.read_text()
    source.write_text(source.read_text().replace(OLD, NEW))
    monkeypatch.setattr("scaffold.change.packaged", lambda: Catalogue(templates))


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
    newer(monkeypatch, tmp_path)
    assert scaffold("update").code == 0
    one_line = 'capture_output=True, encoding="utf-8"'
    assert one_line in before
    assert sweep.read_text() == before.replace(one_line, f"{one_line}, check=False")


def test_what_is_not_formatted_at_that_length_stays_so(scaffold, sweep):
    """Some projects set a line length only for the linter."""
    settings, before = Path("pyproject.toml"), sweep.read_text()
    settings.write_text(settings.read_text().replace("= 88", "= 120"))
    assert scaffold("add", "callback", "ema").out.count("\n") == 2
    assert sweep.read_text() == before
    assert scaffold("remove", "extra", "sweep").code == 0
    assert not sweep.exists()


RUFF = [sys.executable, "-m", "ruff", "format", "--isolated", "--quiet"]
SINGLE = ["--config", "format.quote-style='single'"]
STYLES = {
    "ruff": [*RUFF, "--line-length", "100"],
    "narrow": [*RUFF, "--line-length", "60"],
    "single quotes": [*RUFF, *SINGLE],
    "no magic commas": [*RUFF, *SINGLE, "--config", "format.skip-magic-trailing-comma=true"],
    "two spaces": [*RUFF, "--config", "indent-width=2"],
}


@pytest.fixture(params=STYLES)
def restyled(request, sweep):
    """The user's formatter has run, with settings that the scaffolder does not read."""
    before = sweep.read_text()
    subprocess.run([*STYLES[request.param], "."], check=True)
    assert sweep.read_text() != before
    return sweep


def test_what_a_formatter_did_is_no_edit(scaffold, restyled):
    assert scaffold("diff").out.count("\n") == 1
    assert "  on      sweep" in scaffold("list").out
    assert scaffold("remove", "extra", "sweep").code == 0
    assert not restyled.exists()


@pytest.mark.parametrize("edited", [False, True])
def test_newer_templates_leave_the_rest_as_it_was_formatted(
    scaffold, restyled, monkeypatch, tmp_path, edited
):
    newer(monkeypatch, tmp_path)
    if edited:
        text = restyled.read_text()
        restyled.write_text(text.replace("default=20", "default   =   50"))
    before = restyled.read_text().split("\n\n\n")
    assert scaffold("update").code == 0
    after = restyled.read_text().split("\n\n\n")
    assert len(after) == len(before)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert "check=False" in changed[0].replace(" ", "")


def test_a_conflict_is_no_larger_than_what_both_changed(scaffold, restyled, monkeypatch, tmp_path):
    newer(monkeypatch, tmp_path)
    before = restyled.read_text()
    mine = re.sub(r"capture_output=True", "capture_output=1", before)
    assert mine != before
    restyled.write_text(mine)
    assert scaffold("update", "--conflict", "markers").code == 2
    text = restyled.read_text()
    assert "capture_output=1" in text
    assert text.index("def read_space") < text.index("<<<<<<< mine")
    assert text.index(">>>>>>> scaffold") < text.index("def train")
