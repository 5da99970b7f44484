"""Every feature, rendered: formatted, linted, parsed, and independent of all others."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import black
import pytest
import tomllib
import yaml

from scaffold.answers import EXCLUSIVE, default_answers
from scaffold.catalogue import KINDS, packaged
from scaffold.files import write_tree
from scaffold.render import paths, render, variables
from scaffold.wizard import _choices

CATALOGUE = packaged()
FEATURES = [part for kind in CATALOGUE.features.values() for part in kind.values()]
NAMES = {
    "callback": "early-stopping model-checkpoint learning-rate-monitor ema swa backbone-finetuning "
    "gradient-accumulation-schedule timer device-stats prediction-writer throughput",
    "logger": "csv tensorboard wandb mlflow",
    "strategy": "ddp fsdp deepspeed",
    "extra": "docker ci kubernetes slurm torchrun pre-commit notebook sweep folds",
}


def with_features(*chosen):
    answers = default_answers("my-exp", CATALOGUE)
    answers = replace(answers, features=dict.fromkeys(KINDS, ()))
    for part in chosen:
        answers = answers.with_feature(part.kind, part.name)
    return answers


def check(tree, folder: Path) -> None:
    write_tree(tree, folder)
    for path, file in tree.items():
        text = file.data.decode()
        if path.endswith(".py"):
            assert black.format_str(text, mode=black.Mode(line_length=88)) == text
        elif path.endswith((".yaml", ".yml")):
            assert yaml.safe_load(text) is not None
        elif path.endswith(".toml"):
            tomllib.loads(text)
        elif path.endswith(".ipynb"):
            json.loads(text)
        assert "{{" not in text.replace("${{", "")
        assert text.endswith("\n") or not text
    lint = subprocess.run([sys.executable, "-m", "ruff", "check", folder], capture_output=True)
    assert lint.returncode == 0, lint.stdout.decode()
    form = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", folder], capture_output=True
    )
    assert form.returncode == 0, form.stdout.decode()


def test_the_catalogue_holds_what_was_promised():
    for kind, names in NAMES.items():
        assert set(names.split()) <= set(CATALOGUE.features[kind])


@pytest.mark.parametrize("part", FEATURES, ids=lambda part: f"{part.kind}-{part.name}")
def test_each_feature_alone(part, tmp_path):
    tree = render(with_features(part), CATALOGUE)
    assert set(paths(part, "my_exp")) <= set(tree)
    check(tree, tmp_path / "my-exp")


@pytest.mark.parametrize("strategy", sorted(CATALOGUE.features["strategy"]))
def test_all_features_together(strategy, tmp_path):
    chosen = [part for part in FEATURES if part.kind not in EXCLUSIVE or part.name == strategy]
    check(render(with_features(*chosen), CATALOGUE), tmp_path / "my-exp")


@pytest.mark.parametrize("kind", ["callback", "logger"])
def test_one_config_each_named_after_the_feature(kind):
    for part in CATALOGUE.features[kind].values():
        config = f"configs/{kind}s/{part.name.replace('-', '_')}.yaml"
        assert config in paths(part, "my_exp")


def test_no_two_features_write_the_same_file_or_setting():
    """So pairs need not be rendered: no feature touches what another one adds."""
    for one, other in itertools.combinations(FEATURES, 2):
        assert not set(paths(one, "x")) & set(paths(other, "x"))
        if not one.kind == other.kind == "strategy":
            assert not set(one.trainer) & set(other.trainer)


def test_needs_name_features_that_exist():
    for part in FEATURES:
        for need in part.needs:
            kind, _, name = need.partition("/")
            assert name in CATALOGUE.features[kind]


def test_every_question_of_the_wizard_fits_a_terminal():
    """Each choice is indented by four columns."""
    for choices in _choices(CATALOGUE).values():
        assert max(map(len, choices)) <= 80 - 5


def test_every_part_says_what_it_is_in_one_short_line():
    for part in [*FEATURES, *CATALOGUE.tasks.values()]:
        assert 5 <= len(part.description) <= 60
        assert not part.description.endswith(".")


@pytest.mark.parametrize("task", sorted(CATALOGUE.tasks))
def test_what_a_task_and_a_feature_need_is_written_once(task):
    answers = replace(default_answers("my-exp", CATALOGUE), task=task)
    for part in FEATURES:
        answers = answers.with_feature(part.kind, part.name)
    said = variables(answers, answers.parts(CATALOGUE))
    assert not {*said["requirements"]} & {*said["feature_requirements"]}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that brings a callback and a task, and must not be run."""
    root = tmp_path / "site"
    folder = root / "team_templates" / "more"
    (root / "team_templates").mkdir(parents=True)
    (root / "team_templates" / "__init__.py").write_text("raise SystemExit('it ran')")
    for path, text in {
        "features/callback/team/feature.yml": "description: from the team\n",
        "features/callback/team/configs/callbacks/team.yaml.jinja": "class_path: team.Callback\n",
        "features/callback/ema/feature.yml": "description: a false one\n",
        "tasks/team-task/task.yml": "description: from the team\nmodel: A\ndata: B\n"
        "features: [callback/ema, extra/notebook]\nneeds: [logger/mlflow]\n",
        "tasks/team-task/team.txt.jinja": "{{ name }}\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    info = root / "team_templates-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: team-templates\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[scaffold.templates]\nteam = team_templates.more\n")
    monkeypatch.syspath_prepend(root)


def test_an_installed_package_brings_features_and_tasks(plugin, scaffold):
    words = ("--task", "team-task", "--callbacks", "team")
    assert scaffold("new", "my-exp", "--no-git", *words).code == 0
    assert Path("my-exp/team.txt").read_text() == "my-exp\n"
    assert Path("my-exp/configs/callbacks/team.yaml").exists()
    assert packaged().features["callback"]["ema"].description != "a false one"


def test_what_is_newer_in_a_package_is_shown_and_comes(plugin, scaffold, monkeypatch):
    assert scaffold("new", "my-exp", "--no-git", "--task", "team-task").code == 0
    monkeypatch.chdir("my-exp")
    assert "No changes" in scaffold("diff").out
    source = packaged().tasks["team-task"].folder / "team.txt.jinja"
    source.write_text("newer\n")
    assert "+newer" in scaffold("diff").out
    assert "update    team.txt" in scaffold("update").out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("descripton: a", "unknown key `descripton`; did you mean `description`?"),
        ("kind: a", "unknown key `kind`; known: "),
        ("imports: [requests]", "`imports` must be a string, not ['requests']"),
        ("requirements: requests", "`requirements` must be a list of strings, such as [a, b], not 'requests'"),
        ("needs:", "`needs` must be a list of strings, such as [a, b], not None"),
        ("features: [1]", "`features` must be a list of strings, such as [a, b], not [1]"),
        ("shares: [a.txt]", "`shares` lists a.txt, but there is no shared/a.txt.jinja"),
        ("default: perhaps", "`default` must be true or false, not 'perhaps'"),
        ("- a", "it must hold `key: value` lines"),
        ("a: [", "while parsing a flow node"),
    ],
)  # fmt: skip
def test_a_wrong_description_is_named_where_it_is_used(
    plugin, scaffold, tmp_path, monkeypatch, text, why
):
    """Other features and projects without it are not affected."""
    file = tmp_path / "site/team_templates/more/features/callback/team/feature.yml"
    assert scaffold("new", "one", "--no-git", "--callbacks", "team").code == 0
    file.write_text(text)
    assert scaffold("new", "two", "--no-git", "--callbacks", "ema").code == 0
    monkeypatch.chdir("two")
    shown = scaffold("list")
    assert shown.code == 0 and f"cannot be used: {why}" in shown.out
    assert scaffold("add", "callback", "timer").code == 0
    refused = scaffold("add", "callback", "team")
    assert refused.code == 1 and len(refused.err.splitlines()) == 2
    assert refused.err.startswith(f"error: callback `team` cannot be used: {file}\n  {why}")
    monkeypatch.chdir("../one")
    assert f"cannot be used: {file}" in scaffold("doctor").out
    assert scaffold("update").err == refused.err


def test_what_a_package_renamed_moves_with_its_edits(plugin, scaffold, monkeypatch):
    source = packaged().tasks["team-task"].folder / "team.txt.jinja"
    source.write_text("a\nb\nc\nd\n")
    assert scaffold("new", "my-exp", "--no-git", "--task", "team-task").code == 0
    monkeypatch.chdir("my-exp")
    Path("team.txt").write_text("a\nb\nc\nmine\n")
    source.rename(source.with_name("all.txt.jinja"))
    assert "move      team.txt  (to all.txt)" in scaffold("update").out
    assert Path("all.txt").read_text() == "a\nb\nc\nmine\n"


@pytest.mark.parametrize("text", ["a\n{{ nmae }}\n", "a\n{% if %}\n", "a\n{{ 1 + name }}\n"])
def test_a_template_that_cannot_be_rendered_is_named(plugin, scaffold, text):
    source = packaged().tasks["team-task"].folder / "team.txt.jinja"
    source.write_text(text)
    refused = scaffold("new", "my-exp", "--task", "team-task")
    assert refused.code == 1
    assert f"a template in {source.parent}, `team.txt.jinja`, line 2: " in refused.err


def on(scaffold) -> set[str]:
    listed = json.loads(scaffold("list", "--json").out)["features"]
    return {each["name"] for each in listed if each["state"]}


def test_a_task_says_what_is_on_and_what_it_needs(plugin, scaffold, monkeypatch):
    """Its `features` are defaults, its `needs` cannot be switched off; needs of needs are included."""
    assert scaffold("new", "one", "--no-git", "--task", "team-task").code == 0
    words = ("--task", "team-task", "--callbacks", "none", "--loggers", "none")
    assert scaffold("new", "two", "--no-git", *words).code == 0
    monkeypatch.chdir("one")
    assert {"ema", "early-stopping", "notebook", "csv", "mlflow"} <= on(scaffold)
    refused = scaffold("remove", "logger", "mlflow")
    assert (refused.code, refused.err) == (1, "error: task `team-task` needs logger `mlflow`\n")
    monkeypatch.chdir("../two")
    assert on(scaffold) == {"csv", "mlflow", "notebook"}  # csv, because the notebook needs it


def test_what_a_feature_needs_is_there_from_the_start(scaffold, monkeypatch):
    words = ("--loggers", "none", "--extras", "kubernetes,notebook")
    assert scaffold("new", "my-exp", "--no-git", *words).code == 0
    monkeypatch.chdir("my-exp")
    assert {"csv", "docker"} <= on(scaffold)
    assert "--loggers csv --extras docker,kubernetes,notebook" in Path("README.md").read_text()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("add callback ear", ["early-stopping"]),
        ("add mod", ["module"]),
        ("add d", ["datamodule"]),
        ("remove logger ", ["csv", "tensorboard"]),
        ("new x --task tab", ["tabular"]),
        ("new x --callbacks ema,sw", ["ema,swa"]),
        ("new x --strategy dd", ["ddp"]),
        ("update --conflict m", ["markers", "mine"]),
        ("res", ["resolve"]),
    ],
)
def test_the_shell_completes(monkeypatch, scaffold, line, completed):
    scaffold("new", "my-exp", "--no-git")
    monkeypatch.chdir("my-exp")
    words = f"scaffold {line}"
    monkeypatch.setenv("_SCAFFOLD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    done = subprocess.run(
        [sys.executable, "-c", "from scaffold.cli import app; app(prog_name='scaffold')"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == completed


def test_the_list_fits_a_terminal_and_has_no_colour_in_a_pipe(scaffold):
    said = scaffold("list").out
    assert "\x1b" not in said
    assert max(len(line) for line in said.splitlines()) <= 80
