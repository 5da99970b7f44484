"""`scaffold doctor`: each problem is found, with its fix; and `--rebuild` repairs merged branches."""

import json
import os
from pathlib import Path

import pytest
from repository import commit, git

from scaffold import doctor
from scaffold.catalogue import packaged

HEALTHY = {
    "python": [3, 12, 1],
    "torch": "2.13.0+cu130",
    "cuda": "12.4",
    "devices": 2,
    "runtime": "0.1.0",
    "missing": [],
}


@pytest.fixture
def project(scaffold, monkeypatch):
    scaffold("new", "my-exp", "--no-git", "--loggers", "csv,wandb")
    monkeypatch.chdir("my-exp")
    return scaffold


@pytest.fixture
def machine(monkeypatch):
    """Fake the answers of the project's Python, and whether there is an NVIDIA driver."""

    def answers(driver: bool = True, **changes: object) -> None:
        probe = {key: value for key, value in {**HEALTHY, **changes}.items() if value is not None}
        monkeypatch.setattr(doctor, "ask", lambda *_: probe)
        monkeypatch.setattr(doctor, "of_configs", lambda *_: [])
        found = "/usr/bin/nvidia-smi" if driver else None
        monkeypatch.setattr(doctor.shutil, "which", lambda name: found)

    return answers


def test_a_healthy_machine_and_project(project, machine):
    machine()
    ran = project("doctor")
    assert ran.code == 0
    assert "fix" not in ran.out
    assert "2 CUDA devices" in ran.out


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"python": [3, 9, 0]}, "Python 3.9.0 is too old", "3.10 or newer"),
        ({"python_error": "no such file"}, "does not run", ".venv"),
        (
            {"torch": None, "torch_error": "ImportError: x"},
            "torch: ImportError",
            "pip install torch",
        ),
        ({"torch": "2.1.0"}, "torch 2.1.0 is too old", "torch>=2.9"),
        ({"devices": 0, "cuda": None}, "built without CUDA", "pytorch.org"),
        ({"devices": 0}, "sees no device", "nvidia-smi"),
        ({"runtime": None}, "scaffold-runtime: ", "scaffold-runtime>=0.1"),
        ({"runtime": "0.0.9"}, "older than the templates", "scaffold-runtime>=0.1"),
        ({"missing": ["wandb"]}, "logger `wandb` needs wandb", 'pip install "wandb>=0.18"'),
    ],
)
def test_troubles_of_the_environment(project, machine, changes, what, fix):
    machine(**changes)
    ran = project("doctor")
    assert ran.code == 1
    assert what in ran.out
    assert fix in ran.out


def test_a_runtime_of_before_the_update(project, machine, monkeypatch):
    """`update` changed the requirement of the project, but the new runtime is not installed yet."""
    monkeypatch.setattr("scaffold.answers.__version__", "0.2.0")
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("version: 0.1.0", "version: 0.2.0", 1))
    machine()
    ran = project("doctor")
    assert (ran.code, "scaffold-runtime 0.1.0 is older than the templates" in ran.out) == (1, True)
    machine(runtime="0.2.0")
    assert project("doctor").code == 0


def test_a_strategy_that_the_runtime_refuses(project, machine):
    project("add", "strategy", "fsdp")
    machine(strategies=["single_device", "ddp"])
    ran = project("doctor")
    assert ran.code == 1
    assert "strategy `fsdp`: the installed scaffold-runtime does not" in " ".join(ran.out.split())
    assert "scaffold remove strategy fsdp" in ran.out
    machine(strategies=["single_device", "ddp", "fsdp"])
    assert project("doctor").code == 0


def test_no_driver_and_no_device_is_fine(project, machine):
    machine(driver=False, devices=0)
    assert project("doctor").code == 0


def finding(ran, what: str) -> dict:
    return next(each for each in json.loads(ran.out)["findings"] if what in each["what"])


def test_a_feature_that_is_on_but_not_installed(project, machine):
    machine()
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("features:\n", "features:\n- callback/gone\n"))
    ran = project("doctor", "--json")
    assert ran.code == 1
    assert finding(ran, "callback `gone` is on")["fix"].endswith("`scaffold remove callback gone`")
    assert finding(ran, "disk free")
    assert project("remove", "callback", "gone").code == 0
    assert project("doctor").code == 0


def test_an_edited_lock(project, machine):
    machine()
    path = Path(".scaffold/lock.json")
    lock = json.loads(path.read_text())
    lock["files"]["train.py"]["data"] = "AAAA"
    path.write_text(json.dumps(lock))
    ran = project("doctor", "--json")
    assert ran.code == 1
    assert finding(ran, "train.py")["fix"] == "scaffold doctor --rebuild"
    assert project("doctor", "--rebuild").code == 0
    assert project("doctor").code == 0


def test_an_unresolved_conflict_and_a_change_cut_short(project, machine):
    machine()
    work = Path(".scaffold/work")
    work.mkdir()
    (work / "pending.json").write_text('["train.py"]')
    (work / "journal.json").write_text("[]")
    Path("train.py").write_text("<<<<<<< mine\n")
    ran = project("doctor", "--json")
    assert finding(ran, "train.py")["fix"].endswith("`scaffold resolve`")
    assert finding(ran, "interrupted")["level"] == "fix"


def test_a_generated_file_that_cannot_be_read_any_more(project, machine):
    machine()
    settings = Path("pyproject.toml")
    settings.write_text("[project\n" + settings.read_text())
    ran = project("doctor")
    assert ran.code == 1
    assert "fix   `pyproject.toml` cannot be read: " in ran.out and "line 1" in ran.out
    assert "`scaffold diff` shows" in ran.out and ran.out.count("fix  ") == 1
    machine(torch=None)  # then train.py cannot say it
    Path("configs/model.yaml").write_text("lr: 0.1\nx: [1\n")
    assert "fix   `configs/model.yaml` cannot be read: " in project("doctor").out
    assert "line 3" in project("doctor").out


def test_low_disk_and_a_run_folder_that_is_read_only(project, machine, monkeypatch):
    machine()
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    ran = project("doctor", "--json")
    assert "1 MB" in finding(ran, "MB of disk left")["what"]
    assert finding(ran, "cannot write")["level"] == "fix"


def of_configs() -> list:
    return list(doctor.of_configs(doctor.sys.executable, Path.cwd(), HEALTHY))


@pytest.mark.slow
def test_configs_that_cannot_be_made(project):
    """Reported with file and key, including configs that only `--model` and `--config` read."""
    assert [found.level for found in of_configs()] == ["ok"]
    assert not Path("runs").exists()
    project("add", "module", "resnet")
    for path, old, new in (
        ("configs/callbacks/early_stopping.yaml", "mode: max", "mode: up"),
        ("configs/model/resnet.yaml", "width: 32", "widht: 32"),
    ):
        Path(path).write_text(Path(path).read_text().replace(old, new))
    Path("configs/fast.yaml").write_text("model: {lr: fast}\n")
    found = of_configs()
    assert [each.level for each in found] == ["fix"] * 3
    assert "callbacks.early_stopping.mode (in configs/callbacks/early_stopping" in found[0].what
    assert "unknown key model.widht (in configs/model/resnet.yaml)" in found[1].what
    assert "model.lr (in configs/fast.yaml)" in found[2].what
    assert all("train.py check" in each.fix for each in found)
    Path("my_exp/model.py").write_text("import torch.no_such_thing\n")
    (found,) = of_configs()
    assert "my_exp/model.py, line 1: ModuleNotFoundError: No module named" in found.what
    assert "pip" not in found.fix
    Path("my_exp/model.py").write_text("import no_such_package\n")
    (found,) = of_configs()
    assert found.what == "configs: my_exp/model.py, line 1: No module named 'no_such_package'"
    assert found.fix.startswith("`pip install -e .` installs what pyproject.toml lists")
    Path("my_exp/model.py").write_text("import torch\n\ndef (\n")
    (found,) = of_configs()
    assert "my_exp/model.py, line 3: SyntaxError" in found.what


def test_a_script_that_is_not_ours_is_not_run(project):
    """It might start a training, whatever its arguments are."""
    Path("train.py").write_text("from pathlib import Path\nPath('trained').touch()\n")
    (found,) = of_configs()
    assert found.level == "note"
    assert not Path("trained").exists()


def test_the_probe_runs_in_a_real_python(project):
    probe = doctor.ask(doctor.sys.executable, ["json", "no_such_module"], Path.cwd())
    assert tuple(probe["python"]) == doctor.sys.version_info[:3]
    assert probe["missing"] == ["no_such_module"]


def test_the_environment_of_the_project_comes_first(project):
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/python").touch()
    assert doctor.interpreter(Path.cwd()) == str(Path.cwd() / ".venv/bin/python")


def merged_branches(scaffold) -> None:
    """One adds wandb; the other removes mlflow, adds tensorboard and ema."""
    scaffold("new", "my-exp", "--callbacks", "early-stopping", "--loggers", "csv,mlflow")
    os.chdir("my-exp")
    commit("start")
    git("checkout", "-qb", "one")
    scaffold("add", "logger", "wandb")
    Path("configs/loggers/wandb.yaml").write_text("mine: 1\n")
    commit("one")
    git("checkout", "-q", "main")
    scaffold("remove", "logger", "mlflow")
    scaffold("add", "logger", "tensorboard")
    scaffold("add", "callback", "ema")
    commit("two")
    assert git("merge", "one") == 1


def test_two_branches_that_each_changed_features(scaffold):
    merged_branches(scaffold)
    assert "doctor --rebuild" in scaffold("add", "extra", "ci").err
    rebuilt = scaffold("doctor", "--rebuild")
    assert rebuilt.code == 0
    assert "finish the merge: check `git status`, then `git add -A` and `git commit`" in rebuilt.out
    assert "`git rebase --continue`" in rebuilt.out
    refused = scaffold("add", "extra", "ci")
    assert refused.code == 2
    assert "`scaffold doctor --rebuild`, then finish the merge" in refused.err
    assert "<<<<<<<" not in Path("pyproject.toml").read_text()
    said = {f["name"]: f["state"] for f in json.loads(scaffold("list", "--json").out)["features"]}
    assert said["tensorboard"] == said["ema"] == said["csv"] == "on"
    assert (said["wandb"], said["mlflow"]) == ("edited", "")
    commit("merged")
    assert "Nothing to do" in scaffold("update").out
    assert scaffold("add", "extra", "ci").code == 0


def test_conflicts_in_what_a_branch_edited_stay_the_users(scaffold):
    merged_branches(scaffold)
    git("merge", "--abort")
    Path("pyproject.toml").write_text(Path("pyproject.toml").read_text() + "# mine\n")
    commit("edited")
    git("merge", "one")
    ran = scaffold("doctor", "--rebuild")
    assert "pyproject.toml  (git's conflict markers are yours to resolve)" in ran.out
    assert "<<<<<<<" in Path("pyproject.toml").read_text()


def test_in_the_middle_of_a_merge_nothing_is_added(scaffold, machine):
    """Only unmerged generated files count; unmerged files of the user's own do not."""
    machine()
    scaffold("new", "my-exp")
    os.chdir("my-exp")
    for path in ("notes.txt", "train.py"):
        with Path(path).open("a") as file:
            file.write("# start\n")
    commit("start")
    for branch in ("one", "two"):
        git("checkout", "-qb", branch, "main")
        for path in ("notes.txt", "train.py"):
            Path(path).write_text(Path(path).read_text().replace("# start", f"# {branch}"))
        commit(branch)
    assert git("merge", "one") == 1
    refused = scaffold("add", "callback", "ema")
    assert refused.code == 2
    assert "git has conflicts in train.py\n  edit them, then finish the merge" in refused.err
    assert (
        "git add"
        in finding(scaffold("doctor", "--json"), "git has a conflict in `train.py`")["fix"]
    )
    git("checkout", "--ours", "train.py")
    git("add", "train.py")
    assert scaffold("add", "callback", "ema").code == 0
    assert scaffold("doctor").code == 0


def test_every_optional_package_of_the_catalogue_is_checked():
    for parts in packaged().features.values():
        for part in parts.values():
            assert bool(part.imports) == bool(part.requirements)


def test_the_environment_of_a_repository_is_that_of_its_projects(tmp_path):
    """But not one above the repository, such as in the user's home."""
    root = tmp_path / "mono" / "vision" / "digits"
    for folder in (tmp_path, tmp_path / "mono", root):
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    assert doctor.interpreter(root) == str(root / ".venv/bin/python")
    (root / ".venv/bin/python").unlink()
    assert not doctor.interpreter(root).startswith(str(tmp_path))
    (tmp_path / "mono" / ".git").mkdir()
    assert doctor.interpreter(root) == str(tmp_path / "mono/.venv/bin/python")
    (tmp_path / "mono/.venv/bin/python").unlink()
    assert not doctor.interpreter(root).startswith(str(tmp_path))
