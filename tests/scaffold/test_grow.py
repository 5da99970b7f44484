"""add, remove, update, undo and resolve, beyond the 27 scenarios."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import black
import pytest
import yaml

from scaffold.catalogue import Catalogue, packaged
from scaffold.length import formatted
from scaffold.merge import merge
from scaffold.render import render

EMA = Path("configs/callbacks/ema.yaml")


@pytest.fixture
def project(scaffold, generation, monkeypatch):
    """A project of generation 0.0.1, without git."""
    generation("0.0.1")
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    return scaffold


def files() -> dict[str, bytes]:
    found = (path for path in Path().rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if "work" not in path.parts}


def append(path: str, text: str) -> None:
    Path(path).write_text(Path(path).read_text() + text)


def swap(path: str, old: str, new: str) -> None:
    assert old in Path(path).read_text()
    Path(path).write_text(Path(path).read_text().replace(old, new))


def test_add_and_remove_return_to_the_start(project):
    start = files()
    assert project("add", "callback", "ema").code == 0
    assert EMA.exists()
    assert '"ema>=1",' in Path("pyproject.toml").read_text()
    assert project("remove", "callback", "ema").code == 0
    assert files() == start
    assert not Path("configs").exists()


def test_lines_of_ones_own_in_the_files_for_git_stay(project):
    ignore, attributes = Path(".scaffold/.gitignore"), Path(".scaffold/.gitattributes")
    append(str(ignore), "/notes/\n")
    generated = attributes.read_text()
    attributes.unlink()
    for words in (("add", "callback", "ema"), ("update",), ("doctor", "--rebuild"), ("undo",)):
        assert project(*words).code == 0
        assert ignore.read_text() == "/work/\n/notes/\n"
        assert attributes.exists() is (words != ("undo",))
    project("update")
    assert attributes.read_text() == generated


def test_adding_twice_does_nothing(project):
    project("add", "callback", "ema")
    once = files()
    assert "Nothing to do" in project("add", "callback", "ema").out
    assert files() == once


def test_adding_brings_back_a_file_that_was_deleted_by_hand(project):
    project("add", "callback", "ema")
    EMA.unlink()
    assert "missing" in project("list").out
    assert project("add", "callback", "ema").code == 0
    assert EMA.exists()


def test_an_edited_config_survives_remove_and_add(project):
    project("add", "callback", "ema")
    append(str(EMA), "mine: 1\n")
    assert "keep" in project("remove", "callback", "ema").out
    assert "mine: 1" in EMA.read_text()
    assert "kept    ema" in project("list").out
    project("add", "callback", "ema")
    assert "edited  ema" in project("list").out
    assert "mine: 1" in EMA.read_text()
    assert not Path(f"{EMA}.new").exists()


def test_what_an_edited_config_needs_stays_as_long_as_it_does(project):
    project("add", "callback", "ema")
    append(str(EMA), "mine: 1\n")
    project("remove", "callback", "ema")
    assert '"ema>=1",' in Path("pyproject.toml").read_text()
    project("add", "callback", "secret")
    assert '"ema>=1",' in Path("pyproject.toml").read_text()
    EMA.unlink()
    project("remove", "callback", "secret")
    assert "ema>=1" not in Path("pyproject.toml").read_text()


def test_a_checkout_with_other_line_ends_is_no_edit(project):
    start = files()
    project("add", "callback", "ema")
    for path in ("settings.yaml", "pyproject.toml", "train.py", str(EMA)):
        Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b"\r\n"))
    assert "on      ema" in project("list").out
    assert "No changes" in project("diff").out
    assert project("remove", "callback", "ema").code == 0
    assert not EMA.exists()
    assert {path: data.replace(b"\r\n", b"\n") for path, data in files().items()} == start


def test_where_all_files_have_other_line_ends_new_ones_have_them(project):
    for path in (path for path in files() if not path.startswith(".scaffold")):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data if b"\0" in data else data.replace(b"\n", b"\r\n"))
    start = files()
    project("add", "callback", "ema")
    assert EMA.read_bytes() == b"class_path: Ema\r\n\r\ndecay: 0.9\r\n\r\nevery: 1\r\n"
    assert "on      ema" in project("list").out
    assert project("remove", "callback", "ema").code == 0
    assert files() == start


def test_an_own_file_with_the_very_text_of_a_feature_but_other_line_ends(project):
    project("add", "callback", "ema")
    crlf = EMA.read_bytes().replace(b"\n", b"\r\n")
    project("remove", "callback", "ema")
    EMA.parent.mkdir(parents=True)
    EMA.write_bytes(crlf)
    assert project("add", "callback", "ema").code == 0
    assert "on      ema" in project("list").out
    assert EMA.read_bytes() == crlf


def test_an_ejected_file_stays_ejected_over_updates(project, generation):
    EMA.parent.mkdir(parents=True)
    EMA.write_text("mine: 1\n")
    project("add", "callback", "ema")
    assert "ejected" in project("list").out
    for version in ("0.0.2", "0.0.3"):
        generation(version)
        assert project("update").code == 0
        assert EMA.read_text() == "mine: 1\n"
    assert not Path(f"{EMA}.new2").exists()


@pytest.mark.parametrize("edited", [False, True])
def test_what_lay_beside_an_ejected_file_goes_with_the_feature(project, edited):
    EMA.parent.mkdir(parents=True)
    EMA.write_text("mine: 1\n")
    project("add", "callback", "ema")
    beside = Path(f"{EMA}.new")
    if edited:
        append(str(beside), "# mine\n")
    assert (f"delete    {beside}" in project("remove", "callback", "ema").out) is not edited
    assert beside.exists() is edited
    assert EMA.read_text() == "mine: 1\n"


def test_a_needed_feature_comes_along_and_cannot_be_removed_first(project):
    project("add", "callback", "stop")
    assert EMA.exists()
    ran = project("remove", "callback", "ema")
    assert (ran.code, EMA.exists()) == (1, True)
    assert "callback `stop` needs callback `ema`" in ran.err
    assert project("remove", "callback", "stop").code == 0
    assert project("remove", "callback", "ema").code == 0


def test_one_strategy_at_a_time(project):
    project("add", "strategy", "many")
    project("add", "strategy", "few")
    assert yaml.safe_load(Path(".scaffold/answers.yml").read_text())["features"] == ["strategy/few"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "callback", "emma"), "did you mean `ema`? (`--custom` starts one of your own)"),
        (("add", "colour", "red"), "unknown kind `colour`"),
        (("add", "model", "resnet"), "unknown kind `model`; did you mean `module`?"),
        (("remove", "callback", "ema"), "is already off"),
        (("remove", "module", "x"), "no module `x`: `configs/model/x.yaml` does not exist"),
        (("undo",), "nothing to undo"),
        (("update", "--conflict", "min"), "did you mean `mine`"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(project, words, said):
    before = files()
    ran = project(*words)
    assert ran.code == 1
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert files() == before


def test_outside_a_project_the_exit_code_is_3(scaffold):
    for words in (("add", "callback", "ema"), ("update",), ("undo",), ("diff",), ("resolve",)):
        assert scaffold(*words).code == 3


def test_the_project_is_found_from_a_folder_below(project):
    os.chdir("my_exp")
    assert project("add", "callback", "ema").code == 0
    os.chdir("..")
    assert EMA.exists()


def test_a_project_in_a_subfolder_of_a_repository(scaffold, generation, monkeypatch):
    subprocess.run(["git", "init", "-q"], check=True)
    generation("0.0.1")
    scaffold("new", "my-exp")
    monkeypatch.chdir("my-exp")
    append("train.py", "\n# mine\n")
    generation("0.0.2")
    assert scaffold("update").code == 0
    assert "STEPS = 20" in Path("train.py").read_text()
    assert "# mine" in Path("train.py").read_text()


@pytest.mark.parametrize("with_git", [True, False])
def test_merging_works_with_and_without_git(project, generation, monkeypatch, with_git):
    append("train.py", "\n# mine\n")
    swap("settings.yaml", "seed: 42", "seed: 7")
    generation("0.0.2")
    if not with_git:
        monkeypatch.setenv("PATH", "/nowhere")
    assert project("update").code == 0
    assert "STEPS = 20" in Path("train.py").read_text()
    assert "# mine" in Path("train.py").read_text()
    assert "lr: 0.2" in Path("settings.yaml").read_text()
    assert "seed: 7" in Path("settings.yaml").read_text()


def in_conflict(generation) -> None:
    swap("train.py", "STEPS = 10", "STEPS = 11")
    swap("settings.yaml", "lr: 0.1", "lr: 0.5")
    generation("0.0.2")


@pytest.mark.parametrize("with_git", [True, False])
def test_markers_hold_both_and_the_base(project, generation, monkeypatch, with_git):
    in_conflict(generation)
    if not with_git:
        monkeypatch.setenv("PATH", "/nowhere")
    assert project("update", "--conflict", "markers").code == 2
    hunk = "<<<<<<< mine|STEPS = 11|||||||| before|STEPS = 10|=======|STEPS = 20|>>>>>>> scaffold|"
    assert hunk in Path("train.py").read_text().replace("\n", "|")


def test_nothing_more_happens_until_the_markers_are_gone(project, generation):
    in_conflict(generation)
    project("update", "--conflict", "markers")
    stuck = files()
    for words in (("add", "callback", "ema"), ("update",), ("resolve",)):
        ran = project(*words)
        assert ran.code == 2
        assert "train.py" in ran.err
        assert files() == stuck
    Path("train.py").write_text("STEPS = 11\n||||||| before\nSTEPS = 10\nSTEPS = 20\n")
    assert "train.py" in project("resolve").err, "some of the markers are no markers gone"
    Path("train.py").write_text("STEPS = 11\n")
    Path("settings.yaml").write_text("lr: 0.5\n")
    assert project("resolve").code == 0
    assert "Nothing to do" in project("update").out
    assert project("add", "callback", "stop", "--conflict", "mine").code == 0


@pytest.mark.parametrize(("policy", "steps"), [("mine", "STEPS = 11"), ("template", "STEPS = 20")])
def test_a_side_can_be_chosen(project, generation, policy, steps):
    in_conflict(generation)
    assert project("update", "--conflict", policy).code == 0
    assert steps in Path("train.py").read_text()
    assert "Nothing to do" in project("update").out
    assert project("undo").code == 0
    assert "STEPS = 11" in Path("train.py").read_text()


@pytest.mark.parametrize(
    ("policy", "said"),
    [("mine", "your version is kept"), ("template", "now the template's; `scaffold undo` brings")],
)
def test_the_report_says_who_won(project, generation, policy, said):
    in_conflict(generation)
    before = files()
    dry = project("update", "--conflict", policy, "--dry-run")
    assert files() == before
    ran = project("update", "--conflict", policy)
    assert ran.code == dry.code == 0
    assert ran.out.count(said) == dry.out.count(said) == 2


def test_the_templates_side_comes_in_the_line_ends_of_the_file(project, generation):
    swap("train.py", "STEPS = 10", "STEPS = 11")
    Path("train.py").write_bytes(Path("train.py").read_bytes().replace(b"\n", b"\r\n"))
    generation("0.0.2")
    assert project("update", "--conflict", "template").code == 0
    assert b"STEPS = 20\r\n" in Path("train.py").read_bytes()
    assert "No changes" in project("diff").out


def test_a_moved_file_is_no_home_of_another_that_was_deleted(scaffold, monkeypatch):
    """Early stopping and checkpoints have similar configs, with the metric of the task in both."""
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    shutil.copytree(packaged().root, "../templates")
    for config in Path("../templates/features/callback").rglob("*.yaml.jinja"):
        config.write_text(config.read_text().replace("monitor:", "watched:"))
    newer = Catalogue(Path("../templates").absolute(), "0.1.0+1")
    monkeypatch.setattr("scaffold.change.packaged", lambda: newer)
    os.remove("configs/callbacks/early_stopping.yaml")
    os.rename("configs/callbacks/model_checkpoint.yaml", "best.yaml")
    ran = scaffold("update", "--conflict", "mine")
    assert "gone      configs/callbacks/early_stopping.yaml" in ran.out
    assert "best.yaml" in ran.out
    assert "watched: val_acc" in Path("best.yaml").read_text()
    assert "ModelCheckpoint" in Path("best.yaml").read_text()


def test_what_names_the_classes_names_those_that_come(scaffold, monkeypatch):
    """The notebook imports the classes in `train.py`, which newer templates may rename."""
    now = Catalogue(packaged().root, "0.0.9")
    monkeypatch.setattr("scaffold.cli.packaged", lambda: now)
    words = ("new", "my-exp", "--no-git", "--task", "blank", "--extras", "notebook")
    assert scaffold(*words).code == 0
    monkeypatch.chdir("my-exp")
    shutil.copytree(now.root, "../templates")
    for file in filter(Path.is_file, Path("../templates/tasks/blank").rglob("*")):
        file.write_text(re.sub(r"\bModel\b", "OtherModel", file.read_text()))
    newer = Catalogue(Path("../templates").absolute(), "0.1.0")
    monkeypatch.setattr("scaffold.change.packaged", lambda: newer)
    assert scaffold("update").code == 0
    assert "import OtherModel" in Path("train.py").read_text()
    assert "import OtherModel" in Path("notebooks/train.ipynb").read_text()
    assert "Nothing to do" in scaffold("update").out


def test_moved_by_the_user_and_renamed_by_the_template(project, generation):
    """Whichever imports win in a conflict, the module they name exists, with the edits."""
    swap("my_exp/layers.py", "return x * x * x", "return x**3")
    Path("my_exp/nets").mkdir()
    os.rename("my_exp/layers.py", "my_exp/nets/layers.py")
    generation("0.0.2")
    ran = project("update")
    assert ran.code == 0
    assert "yours stays at `my_exp/nets/layers.py`" in ran.out
    assert "return x**3" in Path("my_exp/nets/layers.py").read_text()
    assert "return x**3" in Path("my_exp/blocks.py").read_text()
    assert "Nothing to do" in project("update").out


def test_deleted_by_the_user_and_renamed_by_the_template(project, generation):
    os.remove("run.sh")
    generation("0.0.3")
    assert "scripts/run.sh  (was `run.sh`, which you deleted)" in project("update").out
    assert not Path("scripts").exists()
    project("undo")
    assert not Path("run.sh").exists()


@pytest.mark.parametrize("text", ["5", "null", "[5]", "[[]]", '{"a": 1}', "x", '["../x"]'])
def test_a_damaged_list_of_conflicts(project, text):
    Path(".scaffold/work").mkdir()
    Path(".scaffold/work/pending.json").write_text(text)
    assert project("add", "callback", "ema").code == 0


def test_an_error_of_the_disk_names_the_users_file(project, monkeypatch):
    """Simulates a folder on another disk; a read-only folder would not stop root."""
    replace, before = os.replace, files()

    def other_disk(old, new):
        if str(new).endswith(str(EMA)):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(old), None, str(new))
        replace(old, new)

    monkeypatch.setattr(os, "replace", other_disk)
    ran = project("add", "callback", "ema")
    assert (ran.code, files()) == (1, before)
    assert ran.err == f"error: Invalid cross-device link: {Path.cwd() / EMA}\n"


def test_permissions_stay(project):
    os.chmod("pyproject.toml", 0o600)
    os.chmod("settings.yaml", 0o640)
    project("add", "callback", "ema")
    assert Path("pyproject.toml").stat().st_mode & 0o777 == 0o600
    project("undo")
    assert Path("pyproject.toml").stat().st_mode & 0o777 == 0o600
    assert Path("settings.yaml").stat().st_mode & 0o777 == 0o640


def test_many_conflicts_in_one_file(project, generation):
    text = "\n".join(f"a{i} = 0\nb{i} = 0" for i in range(12))
    from scaffold.merge import diff3, merge

    mine, template = text.replace("a", "mine_a").encode(), text.replace("a", "their_a").encode()
    for merged in (
        merge("x.txt", text.encode(), mine, template),
        diff3(text.encode(), mine, template),
    ):
        assert merged.conflicts == 12
        assert all(line in merged.data for line in (mine + b"\n" + template).splitlines())


def test_a_merge_that_breaks_the_syntax_is_a_conflict():
    from scaffold.merge import merge

    base = b"def f():\n    a = 1\n    b = 1\n    c = 1\n    return a\n"
    mine = base.replace(b"    return a\n", b"    if a:\n        return a\n")
    template = base.replace(b"def f():\n", b"def f(:\n")
    assert merge("x.txt", base, mine, template).conflicts == 0
    assert merge("x.py", base, mine, template).conflicts == 1


def test_a_key_that_both_added_at_other_places_is_a_conflict():
    """The runtime rejects a file with duplicate keys."""
    from scaffold.merge import merge

    base = b"a:\n  b: 1\n  c: 1\n  d: 1\n"
    mine, template = base.replace(b"  b: 1\n", b"  e: 1\n  b: 1\n"), base + b"  e: 2\n"
    assert merge("x.txt", base, mine, template).conflicts == 0
    assert merge("x.yaml", base, mine, template).conflicts == 1
    assert "does not parse" in merge("x.yaml", base, mine, template).note


def mode(path: str | Path) -> int:
    return Path(path).stat().st_mode & 0o777


def test_undo_brings_permissions_back(project):
    project("add", "callback", "ema")
    EMA.chmod(0o600)
    project("remove", "callback", "ema")
    assert project("undo").code == 0
    assert mode(EMA) == 0o600
    EMA.chmod(0o640)
    for _ in range(2):
        assert project("undo").code == 0
    assert mode(EMA) == 0o640


def test_undo_brings_line_ends_back(project):
    project("add", "callback", "ema")
    for changes in map(Path, ("pyproject.toml", "settings.yaml")):
        changes.write_bytes(changes.read_bytes().replace(b"\n", b"\r\n"))
    before = files()
    project("remove", "callback", "ema")
    assert project("undo").code == 0
    assert files() == before


def test_permissions_move_along(project, generation):
    os.chmod("my_exp/layers.py", 0o600)
    generation("0.0.2")
    assert project("update").code == 0
    assert mode("my_exp/blocks.py") == 0o600
    assert project("undo").code == 0
    assert mode("my_exp/layers.py") == 0o600


def test_undo_and_undo_again(project, generation):
    append("train.py", "\n# mine\n")
    before = files()
    generation("0.0.2")
    project("update")
    after = files()
    assert project("undo").code == 0
    assert files() == before
    assert project("undo").code == 0
    assert files() == after


def test_undo_keeps_what_was_edited_since(project):
    project("add", "callback", "ema")
    append("pyproject.toml", "# since\n")
    append(str(EMA), "since: 1\n")
    ran = project("undo")
    assert ran.code == 0
    assert "ema>=1" not in Path("pyproject.toml").read_text()
    assert "# since" in Path("pyproject.toml").read_text()
    assert "since: 1" in EMA.read_text()
    assert f"{EMA}  (edited, so it stays and is still on" in ran.out
    assert "kept    ema" in project("list").out
    assert project("undo").code == 0
    assert "edited  ema" in project("list").out


def test_other_programs_get_the_files_that_are_in_conflict(project, generation):
    in_conflict(generation)
    planned = json.loads(project("update", "--json", "--dry-run").out)["pending"]
    refused = json.loads(project("update", "--json").out)
    assert refused["conflicts"] == planned != []
    project("update", "--conflict", "markers")
    open_ = json.loads(project("add", "callback", "ema", "--json").out)
    assert open_["conflicts"] == planned


def test_undo_closes_an_open_conflict(project, generation):
    in_conflict(generation)
    before = files()
    project("update", "--conflict", "markers")
    assert project("undo").code == 0
    assert files() == before
    generation("0.0.1")
    assert project("add", "callback", "ema").code == 0


def test_two_generations_at_once(project, generation):
    swap("my_exp/layers.py", "return x * x * x", "return x**3")
    swap("old_notes.md", "Nothing", "Something")
    generation("0.0.3")
    assert project("update").code == 0
    assert Path("old_notes.md").read_text().endswith("Something to see.\n")
    moved = Path("my_exp/nn/blocks.py").read_text()
    assert "return x**3" in moved
    assert not Path("my_exp/layers.py").exists()
    assert Path("CHANGES.md").exists()


def test_one_generation_after_the_other_is_the_same_as_both_at_once(project, generation):
    for version in ("0.0.2", "0.0.3"):
        generation(version)
        assert project("update").code == 0
    assert yaml.safe_load(Path(".scaffold/answers.yml").read_text())["version"] == "0.0.3"
    stepwise = files()
    generation("0.0.1")
    Path("../fresh").mkdir()
    os.chdir("../fresh")
    project("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    generation("0.0.3")
    assert project("update").code == 0
    assert files() == stepwise


def test_a_project_of_a_newer_version_is_refused(project):
    swap(".scaffold/answers.yml", "version: 0.0.1", "version: 9.1.0")
    ran = project("add", "callback", "ema")
    assert ran.code == 1
    assert 'pip install "torch-scaffold>=9.1.0"' in ran.err


@pytest.mark.parametrize("version", ["null", '"0.1.²"', '""', "[1]", "latest"])
def test_what_is_no_version_is_said(project, version):
    swap(".scaffold/answers.yml", "version: 0.0.1", f"version: {version}")
    for words in (["diff"], ["add", "callback", "ema"], ["doctor", "--rebuild"]):
        ran = project(*words)
        assert (ran.code, len(ran.err.splitlines())) == (1, 2)
        assert "`.scaffold/answers.yml`: `version: " in ran.err


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that somebody is in")
def test_a_folder_that_is_gone_is_said(project, monkeypatch):
    project("add", "callback", "ema")
    os.chdir("configs/callbacks")
    assert project("remove", "callback", "ema").code == 0
    for words in (["list"], ["new", "other"], ["undo"]):
        ran = project(*words)
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert "this folder was deleted" in ran.err


def lock() -> dict:
    return json.loads(Path(".scaffold/lock.json").read_text())


def test_a_damaged_entry_is_rendered_again(project):
    damaged = lock()
    damaged["files"]["pyproject.toml"]["data"] = "AAAA"
    Path(".scaffold/lock.json").write_text(json.dumps(damaged))
    append("pyproject.toml", "# mine\n")
    assert project("add", "callback", "ema").code == 0
    assert "# mine" in Path("pyproject.toml").read_text()
    assert "ema>=1" in Path("pyproject.toml").read_text()


def test_without_a_base_the_new_text_lies_beside(project, generation):
    damaged = lock()
    damaged["files"]["train.py"]["sha256"] = "0" * 64
    Path(".scaffold/lock.json").write_text(json.dumps(damaged))
    append("train.py", "# mine\n")
    generation("0.0.2")
    assert project("update").code == 0
    assert "# mine" in Path("train.py").read_text()
    assert "STEPS = 20" in Path("train.py.new").read_text()


@pytest.mark.parametrize(
    "path",
    ["../outside.txt", "/etc/x", "a/../../x", ".git/hooks/x", ".scaffold/x", "a\\b", "C:x", ""],
)
def test_a_hostile_lock_reaches_nothing_outside(project, path, generation):
    hostile = lock()
    hostile["files"][path] = hostile["files"]["train.py"]
    Path(".scaffold/lock.json").write_text(json.dumps(hostile))
    generation("0.0.2")
    ran = project("update")
    assert "Traceback" not in ran.err
    assert path not in lock()["files"]
    assert sorted(os.listdir("..")) == ["my-exp"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "<<<<<<< HEAD\n", "\x00"])
def test_an_unreadable_lock_is_an_error_with_its_fix(project, text):
    Path(".scaffold/lock.json").write_text(text)
    ran = project("add", "callback", "ema")
    assert ran.code == 1
    assert "doctor --rebuild" in ran.err


@pytest.mark.parametrize(
    "text", ["", "[", "- a", "name: 3/4", "name: a\ntask: [", "!!python/none x"]
)
def test_unreadable_answers_are_an_error_with_their_fix(project, text):
    Path(".scaffold/answers.yml").write_text(text)
    ran = project("update")
    assert ran.code == 1
    assert 1 <= len(ran.err.splitlines()) <= 3
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("key", ["version", "name", "task", "features"])
def test_a_key_that_the_answers_lack_is_named(project, key):
    """A missing list of features would switch all of them off."""
    answers = Path(".scaffold/answers.yml")
    text = re.sub(rf"(?m)^{key}:.*\n(- .*\n)*", "", answers.read_text())
    answers.write_text(text)
    for words in (["update"], ["list"], ["add", "callback", "ema"]):
        ran = project(*words)
        assert ran.code == 1
        assert ran.err.startswith(
            f"error: `.scaffold/answers.yml` has no `{key}:`\n  after a merge"
        )
    assert answers.read_text() == text


def test_a_project_whose_answers_are_gone_is_one(project, monkeypatch):
    Path(".scaffold/answers.yml").unlink()
    (here := Path("sub")).mkdir()
    root = Path.cwd()
    monkeypatch.chdir(here)
    for command in ("list", "doctor", "update"):
        ran = project(command)
        said = f"error: `.scaffold/answers.yml` is missing in {root}\n  restore it from git\n"
        assert (ran.code, ran.err) == (1, said)


def test_answers_that_no_template_knows_say_where_they_stand(project):
    task = yaml.safe_load(Path(".scaffold/answers.yml").read_text())["task"]
    swap(".scaffold/answers.yml", f"task: {task}", "task: nosuch")
    ran = project("update")
    assert ran.code == 1
    assert "`.scaffold/answers.yml`: unknown task `nosuch`" in ran.err


def test_unknown_answers_are_kept(project):
    append(".scaffold/answers.yml", "colour: blue\n")
    project("add", "callback", "ema")
    assert "colour: blue" in Path(".scaffold/answers.yml").read_text()


@pytest.mark.parametrize("blocked", ["configs", "configs/callbacks"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_where_a_folder_is_needed(project, workplace, blocked, kind):
    """Nothing is written through it, and the feature is not reported as on."""
    outside = workplace / "outside"
    outside.mkdir()
    Path(blocked).parent.mkdir(exist_ok=True)
    os.symlink(outside, blocked) if kind == "link" else Path(blocked).write_text("mine")
    before = files()
    ran = project("add", "callback", "ema")
    assert (ran.code, files()) == (1, before)
    assert f"cannot write `{EMA}`: `{blocked}` is a link or a file" in ran.err
    assert not any(outside.iterdir())
    assert "on      ema" not in project("list").out


@pytest.mark.parametrize("words", [("add", "callback", "stop"), ("remove", "callback", "ema")])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_newer_templates_come_by_update_only(project, generation, words, dry):
    """Otherwise edited files that they moved would no longer be used, and no report would say so."""
    project("add", "callback", "ema")
    swap("my_exp/layers.py", "return x * x * x", "return x**3")
    before = files()
    generation("0.0.2")
    ran = project(*words, *dry)
    assert (ran.code, files()) == (1, before)
    assert "from scaffold 0.0.1, but this is 0.0.2\n  run `scaffold update` first" in ran.err
    assert project("update").code == 0
    assert project(*words).code == 0
    assert "return x**3" in Path("my_exp/blocks.py").read_text()


def test_templates_of_a_checkout_are_newer_without_another_version(scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    shutil.copytree(packaged().root, "../templates")
    append("../templates/project/README.md.jinja", "Newer.\n")
    newer = Catalogue(Path("../templates").absolute())
    for module in ("cli", "change"):
        monkeypatch.setattr(f"scaffold.{module}.packaged", lambda: newer)
    before = files()
    for words in (("add", "callback", "ema"), ("remove", "logger", "csv")):
        ran = scaffold(*words)
        assert (ran.code, "with older templates" in ran.err, files()) == (1, True, before)
    assert "+Newer." in scaffold("diff").out
    assert scaffold("update").code == 0
    assert "No changes" in scaffold("diff").out
    assert scaffold("add", "callback", "ema").code == 0


def test_one_change_renders_once(scaffold, monkeypatch):
    """Newer templates are detected without a second render, which takes as long as the change."""
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    rendered = []

    def counted(*words):
        rendered.append(words)
        return render(*words)

    monkeypatch.setattr("scaffold.transition.render", counted)
    assert scaffold("add", "callback", "ema").code == 0
    assert len(rendered) == 1
    assert "No changes" in scaffold("diff").out
    assert len(rendered) == 1


def test_a_thousand_own_files_and_a_moved_one(project, generation):
    for number in range(1000):
        Path("own", str(number % 10)).mkdir(parents=True, exist_ok=True)
        Path("own", str(number % 10), f"größe {number}.py").write_text(f"x = {number}\n")
    Path("own/3/network.py").write_text(Path("my_exp/model.py").read_text())
    Path("my_exp/model.py").unlink()
    generation("0.0.2")
    assert "own/3/network.py" in project("update").out
    assert "self.width + 1" in Path("own/3/network.py").read_text()


def test_json_for_tools(project):
    steps = json.loads(project("add", "callback", "ema", "--dry-run", "--json").out)["steps"]
    assert {"path": str(EMA), "verb": "create", "note": ""} in steps
    project("add", "callback", "ema")
    features = json.loads(project("list", "--json").out)["features"]
    assert [f["name"] for f in features if f["state"] == "on"] == ["ema"]
    append("train.py", "# mine\n")
    own = json.loads(project("diff", "--json").out)["own"]
    assert [each["path"] for each in own] == ["train.py"]


def test_diff_shows_mine_and_what_would_come(project, generation):
    append("train.py", "# mine\n")
    generation("0.0.2")
    said = project("diff").out
    assert "+# mine" in said
    assert "+STEPS = 20" in said


def killed(project, number: int, *words: str) -> None:
    """Killed while it writes the file of this number."""
    child = os.fork()
    if child == 0:
        from scaffold import journal

        put, count = journal._put, iter(range(100))

        def dies(*args):
            if next(count) == number:
                os.kill(os.getpid(), 9)
            put(*args)

        journal._put = dies
        project(*words)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 9


def test_a_crash_is_taken_back_by_the_next_command(project):
    """Tested with the whole command, not only the journal."""
    before = files()
    killed(project, 2, "add", "callback", "ema")
    assert files() != before
    assert project("add", "callback", "ema").code == 0
    project("remove", "callback", "ema")
    assert files() == before


@pytest.mark.parametrize(
    "words", [("add", "callback", "ema"), ("undo",), ("resolve",), ("doctor", "--rebuild")]
)
def test_half_a_change_is_not_looked_at(project, words):
    """It would be shown as the user's edits, and the next command would roll it back."""
    killed(project, 2, "add", "callback", "ema")
    half = files()
    for looks in ((*words, "--dry-run"), ("diff",)):
        ran = project(*looks)
        assert (ran.code, files()) == (1, half)
        assert "a change was interrupted\n  `scaffold resolve` rolls it back" in ran.err
    assert project("resolve").code == 0
    assert project("diff").code == 0


def test_markers_of_half_a_change_are_not_to_be_edited(project, generation):
    swap("train.py", "STEPS = 10", "STEPS = 11")
    before = files()
    generation("0.0.2")
    project("update", "--conflict", "markers")
    many = len(json.loads(Path(".scaffold/work/undo.json").read_bytes()))
    project("undo")
    killed(project, many - 1, "update", "--conflict", "markers")
    assert "<<<<<<<" in Path("train.py").read_text()
    assert project("resolve").code == 0
    assert files() == before


def test_an_edited_file_moves_along_when_the_template_only_moves_it(project, generation):
    append("run.sh", "echo mine\n")
    generation("0.0.3")
    assert "move      run.sh  (to scripts/run.sh)" in project("update").out
    assert Path("scripts/run.sh").read_text() == "#!/bin/sh\npython train.py\necho mine\n"
    assert not Path("run.sh").exists()


@pytest.mark.parametrize("name", ["journal.json", "undo.json"])
@pytest.mark.parametrize("path", ["../outside.txt", ".git/hooks/pre-commit", "/tmp/outside-x"])
def test_a_journal_that_came_with_a_foreign_repository(project, name, path):
    Path(".scaffold/work").mkdir()
    Path(".scaffold/work", name).write_text(json.dumps([[path, [False, "eA==", None], None]]))
    ran = project("undo")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert sorted(os.listdir("..")) == ["my-exp"]
    assert not Path(".git").exists()


@pytest.mark.parametrize("text", ["", "{", "[[1]]", '[["a", [], 1]]', "null"])
def test_a_damaged_journal(project, text):
    Path(".scaffold/work").mkdir()
    Path(".scaffold/work/journal.json").write_text(text)
    ran = project("add", "callback", "ema")
    assert ran.code == 1
    assert "is damaged" in ran.err


def test_what_was_formatted_before_is_not_formatted_again(scaffold, monkeypatch):
    """black takes a quarter of the time of a change."""
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    formatted.cache_clear()
    asked = []
    format_str = black.format_str
    monkeypatch.setattr(
        black, "format_str", lambda text, mode: asked.append(text) or format_str(text, mode=mode)
    )
    assert scaffold("add", "callback", "ema").code == 0
    assert asked == []
    assert scaffold("add", "extra", "sweep").code == 0  # which brings Python of its own
    assert len(asked) == 2, "sweep.py and my_exp/pruning.py"


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (
            "\n- callbacks/ema",
            "`features` lists `callbacks/ema`\n  write kind/name, where kind is one of",
        ),
        ("\n- ema", "`features` lists `ema`\n"),
        ("\n- callback/", "`features` lists `callback/`\n"),
        (
            " callback/ema",
            "`features` is `callback/ema`, not a list\n  write each on a line below, as `- kind",
        ),
        (
            "",
            "`features` is `None`, not a list\n  write each on a line below, as `- kind/name`, or `features: []`",
        ),
        (" {callback: ema}", "`features` is `{'callback': 'ema'}`, not a list\n"),
    ],
)
def test_a_feature_that_is_written_wrongly_is_not_off(project, features, says):
    project("add", "callback", "ema")
    swap(".scaffold/answers.yml", "\n- callback/ema", features)
    before = files()
    for words in (("add", "callback", "secret"), ("update",), ("list",)):
        ran = project(*words)
        assert (ran.code, f"error: `.scaffold/answers.yml`: {says}" in ran.err) == (1, True)
        assert files() == before


@pytest.mark.parametrize("path", [".scaffold", ".scaffold/answers.yml", ".scaffold/lock.json"])
def test_a_link_in_place_of_what_is_kept_is_said(project, path):
    place = Path(path)
    elsewhere = place.rename(Path("..", place.name.lstrip("."))).resolve()
    place.symlink_to(elsewhere)
    for words in (("add", "callback", "ema"), ("update", "--dry-run"), ("undo",)):
        ran = project(*words)
        assert (ran.code, ran.err.splitlines()) == (
            1,
            [
                f"error: `{path}` is a link, which is never written through",
                "  replace it by what it points to",
            ],
        )
    assert not Path(".scaffold/work").exists()
    found = json.loads(project("doctor", "--json").out)["findings"]
    assert [each["what"].partition(",")[0] for each in found] == [f"`{path}` is a link"]
    place.unlink()
    elsewhere.rename(place)
    assert project("add", "callback", "ema").code == 0


@pytest.fixture
def dropped(monkeypatch, tmp_path):
    """Templates of a version without these callbacks."""

    def use(version: str, *names: str) -> None:
        root = tmp_path / f"without-{'-'.join(names)}"
        shutil.copytree(Path(__file__).parent / "generations" / version, root)
        for name in names:
            shutil.rmtree(root / "features" / "callback" / name)
        for module in ("cli", "change"):
            monkeypatch.setattr(f"scaffold.{module}.packaged", lambda: Catalogue(root, version))

    return use


@pytest.mark.parametrize("version", ["0.0.1", "0.0.2"])
def test_a_feature_that_is_on_but_nowhere_any_more_can_be_removed(project, dropped, version):
    project("add", "callback", "ema")
    project("add", "callback", "secret")
    before = files()
    dropped(version, "ema")
    listed = {each["name"]: each for each in json.loads(project("list", "--json").out)["features"]}
    assert listed["ema"]["description"] == "the package that provides it is gone"
    newer = version != "0.0.1"
    for words in (["update"], *([] if newer else [["add", "callback", "secret"]])):
        ran = project(*words)
        assert ran.code == 1
        assert "`.scaffold/answers.yml`: unknown callback `ema`" in ran.err
        assert "install the package that provides it, or `scaffold remove callback ema`" in ran.err
    ran = project("remove", "callback", "ema")
    assert (ran.code, EMA.exists()) == (0, newer)
    assert ("`scaffold update` deletes its files" in ran.out) is newer
    assert project("undo").code == 0
    assert files() == before
    project("remove", "callback", "ema")
    assert project("update").code == 0
    assert not EMA.exists()
    assert "ema>=1" not in Path("pyproject.toml").read_text()
    assert Path("secret.yaml").exists()


def test_several_that_are_nowhere_any_more_are_removed_one_by_one(project, dropped):
    for name in ("stop", "secret"):  # `stop` brings `ema`
        project("add", "callback", name)
    append(str(EMA), "mine: 1\n")
    dropped("0.0.1", "ema", "stop")
    assert project("remove", "callback", "stop").code == 0
    assert project("remove", "callback", "secret").code == 1
    assert project("remove", "callback", "ema").code == 0
    assert not Path("configs/callbacks/stop.yaml").exists()
    assert "mine: 1" in EMA.read_text()
    assert project("update").code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes in folders")
@pytest.mark.timeout(30)
def test_a_pipe_is_not_read(project, generation):
    Path("my_exp/model.py").unlink()
    for path in ("settings.yaml", "train.py"):
        Path(path).unlink(missing_ok=True)
    for path in ("settings.yaml", "train.py", "pipe.py"):
        os.mkfifo(path)
    generation("0.0.2")
    assert "(not a regular file)" in project("diff").out
    assert project("update").code == 0
    assert Path("settings.yaml").is_fifo()


@pytest.mark.parametrize("hidden", ["outputs/log.py", "outputs"])
def test_what_cannot_be_read_is_no_home_of_a_moved_file(project, generation, monkeypatch, hidden):
    Path("outputs").mkdir()
    Path("my_exp/model.py").rename("outputs/log.py")
    access = os.access  # root may read everything
    monkeypatch.setattr(
        "os.access", lambda path, mode: Path(path) != Path.cwd() / hidden and access(path, mode)
    )
    generation("0.0.2")
    assert "gone" in project("update").out


@pytest.mark.parametrize(("folder", "part"), [("models", "model"), ("datamodules", "data")])
def test_a_second_model_is_no_home_of_the_first(project, generation, folder, part):
    """It is a copy, so it looks like the deleted file."""
    for each in (f"my_exp/{folder}", f"configs/{part}"):
        Path(each).mkdir(parents=True)
    Path(f"configs/{part}/resnet.yaml").write_text("class_path: my_exp.x.resnet.Resnet\n")
    mine = Path("my_exp/model.py").rename(f"my_exp/{folder}/resnet.py")
    before = mine.read_bytes()
    generation("0.0.2")
    assert "gone      my_exp/model.py" in project("update").out
    assert mine.read_bytes() == before


def test_blank_lines_that_the_user_took_out_of_a_config_are_no_conflict(project, generation):
    settings = Path("settings.yaml")
    dense = settings.read_text().replace("\n\n", "\n").replace("seed: 42", "seed: 7")
    settings.write_text(dense)
    generation("0.0.2")
    assert project("update").code == 0
    assert settings.read_text() == dense.replace("lr: 0.1", "lr: 0.2")


def test_nor_is_one_blank_line(project, generation):
    settings = Path("settings.yaml")
    before = settings.read_text()
    settings.write_text(before.replace("lr: 0.1\n\n", "lr: 0.1\n"))
    generation("0.0.2")
    assert project("update").code == 0
    assert settings.read_text() == before.replace("lr: 0.1", "lr: 0.2")


@pytest.mark.parametrize("git", [True, False])
def test_a_key_that_comes_above_an_edited_one_is_no_conflict(monkeypatch, git):
    """It may go before or after the blank line between them; only one of these touches the edit."""
    if not git:
        monkeypatch.setattr("scaffold.merge.git", lambda *_, **__: None)
    base = b"path: data\n\nbatch_size: 64\n\nseed: 1\n"
    newer = base.replace(b"batch", b"fold: null\n\nbatch")
    merged = merge("data.yaml", base, base.replace(b"64", b"256"), newer)
    assert (merged.conflicts, merged.data) == (0, newer.replace(b"64", b"256"))
    both = merge("data.yaml", base, base.replace(b"64", b"256"), base.replace(b"64", b"32"))
    assert both.conflicts == 1
