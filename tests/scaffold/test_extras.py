"""Extras in use, in rendered projects: containers, CI, hooks and the notebook."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scaffold.catalogue import packaged

BIN = Path(sys.executable).parent


def bash(line: str, code: int = 0, **more: str) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", line],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **more},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture
def project(scaffold, monkeypatch):
    """A blank project with the given extras, in a repository."""

    def make(extras: str, *words: str) -> Path:
        words = ("--task", "blank", "--extras", extras, *words)
        assert scaffold("new", "my-exp", *words).code == 0
        monkeypatch.chdir("my-exp")
        return Path.cwd()

    return make


def test_every_extra_has_a_test_that_uses_it():
    used = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    used += (Path(__file__).parents[1] / "e2e" / "test_project.py").read_text()
    used += "".join(path.name for path in (Path(__file__).parents[1] / "e2e").glob("test_*.py"))
    for name in packaged().features["extra"]:
        assert f'project("{name}"' in used or f"test_{name}.py" in used, name


def instructions(dockerfile: str) -> list[tuple[str, list[str]]]:
    lines = (line for line in dockerfile.splitlines() if line and not line.startswith("#"))
    split = (line.partition(" ") for line in lines)
    return [
        (word, json.loads(rest) if rest.startswith("[") else shlex.split(rest))
        for word, _, rest in split
    ]


def test_all_that_need_what_is_removed_are_named(project, scaffold):
    project("folds,notebook")
    ran = scaffold("remove", "logger", "csv")
    assert ran.err.startswith("error: extra `folds` and extra `notebook` need logger `csv`\n")


@pytest.mark.parametrize(("extra", "package"), [("sweep", "optuna"), ("folds", "pandas")])
def test_a_package_that_a_script_lacks_is_one_line(project, extra, package):
    words = [sys.executable, "-S", f"{project(extra)}/{extra}.py"]  # without what is installed
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        f"error: No module named '{package}': `pip install -e .` installs"
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["", "vendored"])
def test_the_dockerfile_builds_what_trains(project, tmp_path, runtime):
    """Its instructions are carried out here, without Docker; pip takes packages from this environment."""
    context = project("docker,sweep", *(["--runtime", runtime] if runtime else []))
    ignored = {*(context / ".dockerignore").read_text().replace("**/", "").split()}
    (context / "runs").mkdir()
    image, site, entry = tmp_path / "image", tmp_path / "site", []
    for word, rest in instructions((context / "Dockerfile").read_text()):
        if word == "FROM":
            assert rest[0].startswith("python:3")
        elif word == "WORKDIR":
            image.mkdir()
        elif word == "COPY":
            for name in rest[:-1]:
                assert name not in ignored
                if name == ".":
                    left_out = shutil.ignore_patterns(*ignored)
                    shutil.copytree(context, image, ignore=left_out, dirs_exist_ok=True)
                else:
                    shutil.copy(context / name, image / rest[-1])
        elif word == "RUN":
            assert rest == ["pip", "install", "--no-cache-dir", "."]
            code = [path for path in image.rglob("*") if path.suffix == ".py"]
            assert not code, "an edit of it would install everything anew"
            offline = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(site)]
            pip = [sys.executable, "-m", "pip", *rest[1:], *offline]
            subprocess.run(pip, cwd=image, check=True)
        else:
            assert word == "ENTRYPOINT"
            entry = rest
    assert (image / "sweep.py").exists() and not (image / "runs").exists()
    assert (image / "scaffold_runtime").exists() == bool(runtime)
    assert [path.suffix for path in site.iterdir()] == [".dist-info"]  # the code is beside it
    os.chdir(image)
    bash(shlex.join([*entry, "fit", "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]))


def test_a_dockerfile_says_that_an_image_has_no_folder_of_this_machine(project):
    project("docker", "--runtime", str(Path(__file__).parents[2] / "runtime"))
    said = "# This does not build yet: the project uses a runtime in a folder of this machine"
    assert said in Path("Dockerfile").read_text()
    os.chdir("..")
    shutil.rmtree("my-exp")
    project("docker")
    assert said not in Path("Dockerfile").read_text()


@pytest.mark.slow
def test_the_workflow_passes_on_a_fresh_project(project):
    project("ci")
    workflow = yaml.safe_load(Path(".github/workflows/ci.yml").read_text())
    assert workflow.keys() == {"name", True, "permissions", "jobs"}  # YAML reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True].keys() == {"push", "pull_request"}
    ran = []
    for job in workflow["jobs"].values():
        assert job.keys() == {"runs-on", "steps"}
        for step in job["steps"]:
            if "uses" in step:
                assert step.keys() <= {"uses", "with", "name"}
                assert "@" in step["uses"]
            elif not step["run"].startswith("pip install "):  # those need a network
                bash(step["run"])
                ran.append(step["run"])
            else:
                assert set(step["run"].split()[2:]) <= {
                    *(".", "torch", "--index-url", "https://download.pytorch.org/whl/cpu"),
                    *("black", "pytest", "ruff"),
                }
    assert ran == ["ruff check .", "black --check .", "pytest"]


@pytest.mark.slow
def test_the_hooks_pass_on_a_fresh_project_and_stop_what_they_should(project, tmp_path):
    project("pre-commit")
    home = {"PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}
    bash("pre-commit validate-config && git add -A", **home)
    said = bash("pre-commit run --all-files", **home)
    assert said.count("Passed") + said.count("Skipped") == 4
    for path, text, hook in (
        ("my_exp/bad.py", "import os\n", "ruff"),
        ("my_exp/bad.py", "x  =  1\n", "black"),
        ("notes.md", "<<<<<<< mine\n", "no conflict markers"),
        ("best.ckpt", "", "no checkpoints"),
    ):
        Path(path).write_text(text)
        said = bash(f"git add -f {path} && pre-commit run --all-files", code=1, **home)
        failed = [line for line in said.splitlines() if line.endswith("Failed")]
        assert [line.split("..")[0] for line in failed] == [hook]
        bash(f"git rm -qf --cached {path} && rm {path}")


@pytest.mark.slow
def test_the_notebook_trains_and_draws(project):
    """Executed headless, twice: where Jupyter starts it, and from the project's folder."""
    root = project("notebook")
    os.chdir("notebooks")
    bash("jupyter execute --inplace train.ipynb")
    cells = json.loads(Path("train.ipynb").read_text())["cells"]
    shown = [out for cell in cells for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", {}) for out in shown)
    rows = (root / "runs/version_0/metrics.csv").read_text().splitlines()
    assert len(rows) > 2
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["version_0"]


@pytest.mark.parametrize("extra", ["ci", "pre-commit"])
def test_what_counts_at_the_root_of_the_repository_alone_is_said(scaffold, extra):
    """A project in a folder of a larger repository: by `new`, `add` and `doctor`, with root and fix."""
    path = {"ci": ".github/workflows/ci.yml", "pre-commit": ".pre-commit-config.yaml"}[extra]
    subprocess.run(["git", "init", "-q", "mono"], check=True)
    Path("mono/packages").mkdir()
    top = Path("mono").resolve()
    os.chdir("mono/packages")
    for words in (("--dry-run",), ()):
        said = scaffold("new", "m1", "--task", "blank", "--extras", extra, *words).err
        assert f"note: `{path}` has no effect here" in said
        assert str(top) in said
        assert "packages/m1" in said
        assert (".github/workflows/packages-m1.yml" in said) == (extra == "ci")
    assert scaffold("new", "m2", "--task", "blank").err == ""
    os.chdir("m2")
    assert "packages/m2" in scaffold("add", "extra", extra).err
    assert scaffold("add", "callback", "ema").err == ""
    assert f"`{path}` has no effect here" in scaffold("doctor").out
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).rename(top / path)
    assert "has no effect here" not in scaffold("doctor").out


def test_hooks_that_were_moved_to_the_root_leave_the_locks_of_all_projects_alone(project):
    project("pre-commit")
    excluded = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["exclude"]
    for path in (".scaffold/lock.json", "packages/m1/.scaffold/lock.json"):
        assert re.search(excluded, path)
    assert not re.search(excluded, "my_exp/model.py")


def test_tests_of_several_projects_run_together(scaffold):
    """As docs/scaffolder.md says."""
    for folder, name in (("vision", "digits"), ("nlp", "words")):
        Path(folder).mkdir()
        os.chdir(folder)
        assert scaffold("new", name, "--task", "blank", "--no-git").code == 0
        os.chdir("..")
    page = (Path(__file__).parents[2] / "docs" / "scaffolder.md").read_text()
    _, _, told = page.partition("# pyproject.toml of the repository\n")
    Path("pyproject.toml").write_text(told.partition("```")[0])
    said = bash("python -m pytest --collect-only -q")
    for each in ("vision/digits", "nlp/words"):
        assert f"{each}/tests/test_smoke.py::" in said


@pytest.mark.parametrize("extra", ["ci", "pre-commit"])
def test_at_the_root_nothing_is_said(project, extra, capsys):
    project(extra)
    assert capsys.readouterr().err == ""


def test_the_script_for_torchrun_can_be_started_by_its_name(project):
    assert os.access(project("torchrun") / "scripts/train.torchrun.sh", os.X_OK)
