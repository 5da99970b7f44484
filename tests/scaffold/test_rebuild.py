"""`doctor --rebuild` after a merge of branches: files that the user deleted, moved, kept or ejected stay so."""

import json
import os
from pathlib import Path

import pytest
import yaml
from repository import commit, git

EMA = Path("configs/callbacks/ema.yaml")


def merge_of(scaffold, one: tuple[str, ...], two: tuple[str, ...]) -> None:
    """Merge two branches that each changed the project by one command; the first is checked out."""
    for branch, words in (("one", one), ("two", two)):
        git("checkout", "-qb", branch, "main")
        assert scaffold(*words).code == 0
        commit(branch)
    git("checkout", "-q", "one")
    assert git("merge", "two") == 1


def states(scaffold) -> dict[str, str]:
    listed = json.loads(scaffold("list", "--json").out)["features"]
    return {feature["name"]: feature["state"] for feature in listed if feature["state"]}


@pytest.fixture
def project(scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--loggers", "csv").code == 0
    monkeypatch.chdir("my-exp")
    commit("start")
    return scaffold


def test_what_was_deleted_or_moved_does_not_come_back(project):
    os.remove("tests/test_resume.py")
    os.mkdir("my_exp/nets")
    os.rename("my_exp/model.py", "my_exp/nets/model.py")
    commit("mine")
    merge_of(project, ("add", "logger", "wandb"), ("add", "logger", "mlflow"))
    ran = project("doctor", "--rebuild")
    assert ran.code == 0
    assert "create" not in ran.out
    assert not Path("tests/test_resume.py").exists()
    assert not Path("my_exp/model.py").exists()
    assert states(project)["wandb"] == states(project)["mlflow"] == "on"
    requirements = Path("pyproject.toml").read_text()
    assert "wandb" in requirements
    assert "mlflow" in requirements
    assert "<<<<" not in requirements
    assert project("undo", "--dry-run").code == 0
    commit("merged")
    assert "Nothing to do" in project("update").out
    ended = project("undo")
    assert ended.code == 1
    assert "git's conflict markers would be back in `.scaffold/answers.yml`" in ended.err
    assert "<<<<" not in Path(".scaffold/answers.yml").read_text()


def test_files_that_went_their_own_way_do_so_after_it(project):
    """Ejected: a file of the user in place of a feature's; kept: of a feature that is off, but edited."""
    EMA.write_text("mine: 1\n")
    assert "beside" in project("add", "callback", "ema").out
    project("add", "callback", "timer")
    timer = Path("configs/callbacks/timer.yaml")
    timer.write_text(timer.read_text() + "# mine\n")
    project("remove", "callback", "timer")
    commit("mine")
    before = states(project)
    assert (before["ema"], before["timer"]) == ("ejected", "kept")
    merge_of(project, ("add", "logger", "wandb"), ("add", "logger", "mlflow"))
    assert project("doctor", "--rebuild").code == 0
    assert states(project) == before | {"wandb": "on", "mlflow": "on"}
    assert EMA.read_text() == "mine: 1\n"


def test_a_feature_that_only_the_other_branch_gave_its_own_way(project):
    project("add", "callback", "timer")
    commit("timer")
    git("checkout", "-qb", "two")
    timer = Path("configs/callbacks/timer.yaml")
    timer.write_text(timer.read_text() + "# mine\n")
    project("remove", "callback", "timer")
    project("add", "logger", "mlflow")
    commit("two")
    git("checkout", "-qb", "one", "main")
    project("add", "logger", "wandb")
    commit("one")
    assert git("merge", "two") == 1
    assert project("doctor", "--rebuild").code == 0
    assert states(project)["timer"] == "kept"
    assert "# mine" in timer.read_text()


def test_of_two_strategies_the_one_of_this_branch(project):
    merge_of(project, ("add", "strategy", "fsdp"), ("add", "strategy", "ddp"))
    ran = project("doctor", "--rebuild")
    assert ran.code == 0
    assert (
        "strategy `fsdp` from this branch; `scaffold add strategy ddp` takes the other's" in ran.out
    )
    commit("merged")
    assert "strategy/ddp" not in Path(".scaffold/answers.yml").read_text()
    assert yaml.safe_load(Path("configs/trainer.yaml").read_text())["strategy"] == "fsdp"
    assert project("add", "strategy", "ddp").code == 0
    assert yaml.safe_load(Path("configs/trainer.yaml").read_text())["strategy"] == "ddp"


def test_a_strategy_that_one_branch_replaced(project):
    project("add", "strategy", "ddp")
    commit("ddp")
    merge_of(project, ("add", "logger", "wandb"), ("add", "strategy", "fsdp"))
    ran = project("doctor", "--rebuild")
    assert "of this branch" not in ran.out
    assert {"fsdp", "wandb"} <= {*states(project)}
    assert "ddp" not in states(project)


def test_what_one_branch_switched_off_and_the_other_began_to_need(project):
    merge_of(project, ("remove", "logger", "csv"), ("add", "extra", "notebook"))
    config = Path("configs/loggers/csv.yaml")
    config.unlink(missing_ok=True)  # as git's merge leaves it
    ran = project("doctor", "--rebuild")
    assert ran.code == 0
    assert f"create    {config}" in ran.out
    commit("merged")
    assert states(project)["csv"] == states(project)["notebook"] == "on"
    assert "Nothing to do" in project("update").out


def test_two_strategies_in_the_answers(project):
    answers = Path(".scaffold/answers.yml")
    features = "features:\n- strategy/ddp\n- strategy/fsdp\n"
    answers.write_text(answers.read_text().replace("features:\n", features))
    ran = project("add", "callback", "ema")
    assert ran.code == 1
    assert (
        "`.scaffold/answers.yml`: `features` lists strategy ddp and fsdp, but only one can be on"
        in ran.err
    )


def test_a_lock_that_nobody_can_read_is_made_of_what_is_there(project):
    before = states(project)
    Path(".scaffold/lock.json").write_text("<<<<<<< HEAD\n")
    assert project("doctor", "--rebuild").code == 0
    assert states(project) == before
    os.remove(".scaffold/lock.json")
    assert project("doctor", "--rebuild").code == 0
    assert states(project) == before


def test_a_branch_that_added_meets_one_that_updated(scaffold, generation, monkeypatch):
    """A file added from older templates is not an edit of the user; `update` brings the newer one."""
    generation("0.0.1")
    assert scaffold("new", "my-exp").code == 0
    monkeypatch.chdir("my-exp")
    commit("start")
    git("checkout", "-qb", "added")
    assert scaffold("add", "callback", "ema").code == 0
    commit("added")
    git("checkout", "-qb", "updated", "main")
    generation("0.0.2")
    assert scaffold("update").code == 0
    commit("updated")
    git("merge", "added")
    assert scaffold("doctor", "--rebuild").code == 0
    commit("merged")
    assert states(scaffold)["ema"] == "on"
    assert "decay: 0.9\n" in EMA.read_text()
    assert scaffold("update").code == 0
    assert "decay: 0.99\n" in EMA.read_text()
