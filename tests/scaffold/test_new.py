"""`scaffold new`: what it writes, what it refuses, and that it leaves nothing half-written."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import black
import pytest
import tomllib
import yaml

from scaffold import create, journal
from scaffold.answers import default_answers
from scaffold.catalogue import packaged
from scaffold.errors import ScaffoldError
from scaffold.files import File
from scaffold.length import LINE_LENGTH
from scaffold.names import check_name, package_name
from scaffold.render import polish, render

TASKS = sorted(packaged().tasks)


def lines(path: str) -> int:
    return len(Path(path).read_text().splitlines())


def test_the_default_project_is_small(scaffold):
    ran = scaffold("new", "my-exp")
    assert ran.code == 0, ran.err
    assert lines("my-exp/my_exp/model.py") <= 45
    assert lines("my-exp/my_exp/data.py") <= 40
    assert lines("my-exp/train.py") <= 10


def test_the_last_of_at_most_six_lines_is_the_next_command(scaffold):
    said = scaffold("new", "my-exp").out.splitlines()
    assert len(said) <= 6
    assert said[-1] == "cd my-exp && python train.py"


def test_what_is_not_installed_here_is_to_be_installed_first(scaffold, monkeypatch):
    def without_sklearn(name: str) -> str:
        if name == "scikit-learn":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("scaffold.create.version", without_sklearn)
    said = scaffold("new", "my-exp").out.splitlines()
    assert said[-1] == "cd my-exp && pip install -e . && python train.py"
    ran = scaffold("new", "other", "--task", "blank", "--json", "--runtime", "vendored")
    assert json.loads(ran.out)["next"] == "cd other && python train.py"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_formatted_parsed_and_linted(task, scaffold):
    assert scaffold("new", "my-exp", "--task", task).code == 0
    for path in Path("my-exp").rglob("*.py"):
        text = path.read_text()
        ast.parse(text)
        assert black.format_str(text, mode=black.Mode(line_length=88)) == text
    for path in Path("my-exp").rglob("*.y*ml"):
        yaml.safe_load(path.read_text())
    lint = subprocess.run([sys.executable, "-m", "ruff", "check", "my-exp"], capture_output=True)
    assert lint.returncode == 0, lint.stdout.decode()


def test_no_trace_of_the_template_is_left(scaffold):
    scaffold("new", "my-exp")
    for path in Path("my-exp").rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            assert not any(trace in path.read_bytes() for trace in (b"{{", b"{%", b"my_package"))
            assert path.suffix != ".jinja"


def test_template_sources_parse_before_rendering():
    sources = list(packaged().root.rglob("*.py.jinja"))
    assert len(sources) > 6
    for source in sources:
        ast.parse(source.read_text())


def test_template_sources_are_formatted_as_the_projects_are():
    """Otherwise black formats a file of a new project twice, to check its result."""
    for source in packaged().root.rglob("*.py.jinja"):
        text = source.read_text()
        if "{%" not in text and "{{" not in text:
            assert black.format_str(text, mode=black.Mode(line_length=LINE_LENGTH)) == text, source


def test_a_command_does_not_look_for_garbage():
    code = "import gc, scaffold.__main__; print(gc.isenabled())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_templates_survive_packaging():
    """No template is byte-compiled on install, hidden, or an invalid name on Windows."""
    for path in packaged().root.rglob("*"):
        assert not path.name.startswith(".")
        assert not set(path.name) & set('"|<>:*?')
        assert path.is_dir() or path.suffix in (".jinja", ".yml")


def test_rendering_twice_gives_the_same_bytes():
    catalogue = packaged()
    answers = default_answers("my-exp", catalogue)
    assert render(answers, catalogue) == render(answers, catalogue)


def test_flags_choose_features(scaffold):
    scaffold("new", "my-exp", "--callbacks", "early-stopping", "--loggers", "none")
    on = sorted(os.listdir("my-exp/configs/callbacks"))
    assert on == ["confusion_matrix.yaml", "early_stopping.yaml"]  # the first is the task's own
    assert not Path("my-exp/configs/loggers").exists()
    project = tomllib.loads(Path("my-exp/pyproject.toml").read_text())["project"]
    assert not any("tensorboard" in line for line in project["dependencies"])


def test_dry_run_lists_exactly_what_new_writes(scaffold):
    listed = json.loads(scaffold("new", "my-exp", "--dry-run", "--json").out)["files"]
    assert not Path("my-exp").exists()
    scaffold("new", "my-exp", "--no-git")
    written = [p.relative_to("my-exp").as_posix() for p in Path("my-exp").rglob("*") if p.is_file()]
    assert listed == sorted(written)


def test_answers_cannot_alter_structure(scaffold):
    author = 'Robert "); DROP\n{{ 7*7 }} {% for %} \\'
    description = 'one\n[tool.x]\n"two" {{ name }} \x1b[31m #'
    assert scaffold("new", "my-exp", "--author", author, "--description", description).code == 0
    parsed = tomllib.loads(Path("my-exp/pyproject.toml").read_text())
    assert "x" not in parsed["tool"]
    assert parsed["project"]["authors"] == [{"name": 'Robert "); DROP {{ 7*7 }} {% for %} \\'}]
    assert parsed["project"]["description"] == 'one [tool.x] "two" {{ name }} [31m #'


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a/b",
            "../up",
            "a\\b",
            "..",
            "",
            "  ",
            "-x",
            "x-",
            "1st",
            "a b",
            "a.b",
            "a\nb",
            "é",
        ),
        *("class", "None", "match/", "json", "torch", "Torch", "scaffold-runtime", "lightning"),
        *("CON", "com1", "tests", "train", "x" * 65, "x" * 300, "{{name}}", "$(id)", "a;b", "~"),
    ],
)
def test_bad_names_are_one_line_and_write_nothing(name, scaffold, workplace):
    ran = scaffold("new", "--defaults", "--", name)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("error: cannot name a project")
    assert not any(workplace.iterdir())
    assert os.listdir(workplace.parent) == ["workplace"]


def test_a_folder_whose_name_cannot_be_that_of_a_project(scaffold, workplace, monkeypatch):
    Path("Mein Projekt").mkdir()
    monkeypatch.chdir("Mein Projekt")
    ran = scaffold("new", ".", "--defaults")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "rename this folder" in ran.err


@pytest.mark.parametrize("name", ["my-exp", "x", "A1", "my_exp", "m" * 64, "match", "gan-v2"])
def test_good_names(name):
    check_name(name)
    assert package_name(name).isidentifier()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--callbacks", "none,ema"], "callbacks none,ema: `none` cannot be combined with others"),
        (["--data", "a=b"], "--data answers a template's questions"),
    ],
)
def test_options_that_would_be_ignored_are_refused(scaffold, words, says):
    ran = scaffold("new", "my-exp", *words)
    assert (ran.code, says in ran.err, os.listdir()) == (1, True, [])


def test_an_existing_folder_is_left_alone(scaffold):
    Path("my-exp").mkdir()
    Path("my-exp/mine.txt").write_text("mine")
    ran = scaffold("new", "my-exp")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert os.listdir("my-exp") == ["mine.txt"]


def test_an_empty_folder_is_used(scaffold):
    Path("my-exp/.venv/bin").mkdir(parents=True)  # nearly empty
    assert scaffold("new", "my-exp").code == 0
    assert Path("my-exp/train.py").exists()


MADE_BY_GITHUB = {"README.md": "# mine\n", "LICENSE": "MIT\n", ".gitignore": "*.pyc\n"}


def cloned(folder: str, files: dict[str, str]) -> None:
    subprocess.run(["git", "init", "-q", folder], check=True)
    for path, text in files.items():
        Path(folder, path).write_text(text)


@pytest.mark.parametrize("files", [{}, MADE_BY_GITHUB, {"Readme.rst": "mine\n"}])
@pytest.mark.parametrize("here", [True, False])
def test_a_cloned_repository_is_used_and_its_files_are_kept(scaffold, files, here, workplace):
    cloned("my-exp", files)
    if here:
        os.chdir("my-exp")
    name = "." if here else "my-exp"
    listed = json.loads(scaffold("new", name, "--dry-run", "--json").out)
    ran = scaffold("new", name)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == ("" if here else "cd my-exp && ") + "python train.py"
    assert all(path in ran.out for path in files)
    root = workplace / "my-exp"
    assert {path: (root / path).read_text() for path in files} == files
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    ours = {path for path in found if not path.startswith(".git/")}
    assert (ours - {*files}, listed["kept"]) == ({*listed["files"]}, sorted(files))
    os.chdir(root)
    assert scaffold("undo").err.startswith("error: there is nothing to undo")
    own = [each["path"] for each in json.loads(scaffold("diff", "--json").out)["own"]]
    assert own == sorted({*files} & {"README.md", ".gitignore"})  # against those of the template
    assert "Nothing to do" in scaffold("update").out
    assert scaffold("add", "callback", "ema").code == 0
    assert "Nothing to do" in scaffold("update").out
    scaffold("undo")


@pytest.mark.parametrize("there", [True, False])
def test_what_appears_while_it_asks_is_not_written_over(scaffold, there, monkeypatch):
    plan = create.plan_new

    def slowly(*arguments):
        Path("my-exp").mkdir(exist_ok=True)
        Path("my-exp/train.py").write_text("mine")
        return plan(*arguments)

    if there:
        Path("my-exp").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(create, "plan_new", slowly)
        ran = scaffold("new", "my-exp")
    assert (ran.code, ran.err) == (
        1, "error: `train.py` was changed in the meantime; nothing was written, try again\n"
    )  # fmt: skip
    assert os.listdir("my-exp") == ["train.py"]
    assert Path("my-exp/train.py").read_text() == "mine"


def test_two_at_once_make_one_project(scaffold):
    command = [sys.executable, "-m", "scaffold", "new", "my-exp", "--defaults", "--no-git"]
    tasks = ("tabular", "image-classification")
    running = [
        subprocess.Popen([*command, "--task", task], stderr=subprocess.PIPE, text=True)
        for task in tasks
    ]
    said = [each.communicate(timeout=60)[1] for each in running]
    codes = [each.returncode for each in running]
    assert sorted(codes) == [0, 1], said
    assert said[codes.index(1)].splitlines()[0].startswith("error: `my-exp` ")
    assert len(os.listdir()) == 1
    kept = tasks[codes.index(0)]
    os.chdir("my-exp")
    assert kept in Path(".scaffold/answers.yml").read_text()
    assert json.loads(scaffold("diff", "--json").out)["own"] == []


def test_the_current_folder_is_used_if_it_is_empty(scaffold, workplace):
    assert scaffold("new", ".", "--no-git").code == 0
    assert Path("workplace/model.py").exists()


@pytest.mark.parametrize("other", ["mine.py", "README.md/", "src/", ".github/"])
def test_a_repository_with_anything_else_is_left_alone(scaffold, other):
    cloned("my-exp", MADE_BY_GITHUB if other != "README.md/" else {})
    place = Path("my-exp", other)
    place.mkdir() if other.endswith("/") else place.touch()
    before = sorted(Path("my-exp").iterdir())
    ran = scaffold("new", "my-exp")
    assert (ran.code, f"`{place.name}`" in ran.err) == (1, True)
    assert sorted(Path("my-exp").iterdir()) == before


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_is_half_written_into_a_repository(scaffold, killed, monkeypatch):
    """It is rolled back at once or, after a kill, by the next `new`."""
    cloned("my-exp", MADE_BY_GITHUB)
    put = journal._put

    def full(root, change):
        put(root, change)
        if change.path == "train.py" and change.after:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

    if (child := os.fork() if killed else 0) == 0:
        with monkeypatch.context() as patched:
            patched.setattr(journal, "_put", full)
            assert scaffold("new", "my-exp").code == 1
    else:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert Path("my-exp/train.py").exists()
        Path("my-exp/mine.txt").touch()
        assert "`mine.txt`" in scaffold("new", "my-exp").err
        Path("my-exp/mine.txt").unlink()
    assert sorted(os.listdir("my-exp")) == sorted([".git", *MADE_BY_GITHUB])
    assert scaffold("new", "my-exp").code == 0


def test_a_link_is_not_followed(scaffold, workplace):
    elsewhere = workplace.parent / "elsewhere"
    elsewhere.mkdir()
    Path("my-exp").symlink_to(elsewhere)
    assert scaffold("new", "my-exp").code == 1
    assert not any(elsewhere.iterdir())


def test_a_misspelt_feature_names_the_nearest(scaffold):
    assert (
        "did you mean `early-stopping`" in scaffold("new", "x", "--callbacks", "early-stoping").err
    )


def test_a_failure_half_way_leaves_nothing(scaffold, workplace, monkeypatch):
    def full(tree, root):
        (root / "half").write_text("written")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(create, "write_tree", full)
    ran = scaffold("new", "my-exp")
    assert (ran.code, ran.err) == (1, "error: No space left on device\n")
    assert not any(workplace.iterdir())


def test_a_template_that_is_not_python_is_an_error_that_names_it():
    with pytest.raises(ScaffoldError, match=r"model\.py"):
        polish("x/model.py", File(b"def f(:\n"))


def test_git_starts_only_outside_a_work_tree(scaffold, workplace):
    scaffold("new", "outer")
    assert Path("outer/.git").is_dir()
    os.chdir("outer")
    scaffold("new", "inner")
    assert not Path("inner/.git").exists()


def test_every_file_has_plain_permissions(scaffold):
    scaffold("new", "my-exp", "--no-git")
    for path in Path("my-exp").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_the_command_in_the_readme_makes_the_same_project(scaffold):
    scaffold("new", "my-exp", "--callbacks", "none", "--task", "blank", "--no-git")
    readme = Path("my-exp/README.md").read_text()
    line = next(line for line in readme.splitlines() if line.startswith("scaffold new"))
    first = {p: p.read_bytes() for p in Path("my-exp").rglob("*") if p.is_file()}
    Path("my-exp").rename("before")
    scaffold(*line.split()[1:], "--no-git")
    assert first == {p: p.read_bytes() for p in Path("my-exp").rglob("*") if p.is_file()}


def test_a_new_feature_is_a_new_folder(scaffold, tmp_path, monkeypatch):
    """Python code knows no names of features: a temporary one is found, listed and rendered."""
    root = tmp_path / "templates"
    shutil.copytree(packaged().root, root)
    folder = root / "features/callback/throw-away"
    (folder / "configs/callbacks").mkdir(parents=True)
    (folder / "feature.yml").write_text("description: a test\nrequirements: [throw>=1]\n")
    (folder / "configs/callbacks/throw_away.yaml.jinja").write_text("class_path: throw.Away\n")
    monkeypatch.setattr("scaffold.cli.packaged", lambda: type(packaged())(root))
    assert scaffold("new", "my-exp", "--callbacks", "throw-away").code == 0
    assert (
        Path("my-exp/configs/callbacks/throw_away.yaml").read_text() == "class_path: throw.Away\n"
    )
    assert '"throw>=1",' in Path("my-exp/pyproject.toml").read_text()


def test_help_imports_neither_torch_nor_the_renderer():
    code = "import sys, scaffold.cli; print([m for m in HEAVY if m in sys.modules])".replace(
        "HEAVY", "('torch', 'copier', 'black', 'jinja2', 'questionary', 'scaffold_runtime')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def killed_while_writing(new: Callable[[], object]) -> None:
    """`scaffold new` in a child that is killed after its first files."""
    child = os.fork()
    if child == 0:
        write = create.write_tree

        def half(tree, root):
            write(dict(list(tree.items())[:5]), root)
            os.kill(os.getpid(), signal.SIGKILL)

        create.write_tree = half
        new()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def litter() -> list[str]:
    return sorted(name for name in os.listdir() if name.startswith(create.STAGING))


def test_what_a_killed_new_left_is_swept_by_the_next(scaffold):
    killed_while_writing(lambda: scaffold("new", "my-exp", "--no-git"))
    assert len(litter()) == 1
    assert not Path("my-exp").exists()
    assert scaffold("new", "my-exp", "--no-git", "--dry-run").code == 0
    assert len(litter()) == 1
    assert scaffold("new", "my-exp", "--no-git").code == 0
    assert os.listdir() == ["my-exp"]


def test_only_what_nobody_holds_is_swept(scaffold):
    for name in (".scaffold-new-alive", ".scaffold-new-left", ".scaffold", "elsewhere"):
        Path(name).mkdir()
        Path(name, "x").touch()
    Path(".scaffold-new-link").symlink_to("elsewhere")
    Path(".scaffold-new-file").touch()
    held = create._hold(Path(".scaffold-new-alive"))
    assert scaffold("new", "my-exp", "--no-git").code == 0
    names = [".scaffold-new-alive", ".scaffold-new-file", ".scaffold-new-link"]
    assert litter() == names
    assert Path("elsewhere/x").exists()
    assert Path(".scaffold/x").exists()
    os.close(held)


def test_without_locks_only_what_is_old_is_swept(scaffold, monkeypatch):
    monkeypatch.setattr(create, "_hold", lambda folder: None)
    for name, age in ((".scaffold-new-young", 0), (".scaffold-new-old", 2 * create.DAY)):
        Path(name).mkdir()
        os.utime(name, (time.time() - age,) * 2)
    assert scaffold("new", "my-exp", "--no-git").code == 0
    assert litter() == [".scaffold-new-young"]
