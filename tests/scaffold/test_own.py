"""`--template`: a team's own Copier template. Its code does not run; hostile templates do no harm."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scaffold import doctor
from scaffold.files import read_tree
from scaffold.names import public
from scaffold.own import fetch

# Copier leaves a directory iterator open when a template fails
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

COPIER = """
_templates_suffix: .jinja
project_name:
  type: str
width:
  type: int
  default: 8
secret:
  type: str
  secret: true
  default: hidden
"""
MODEL = "# {{ project_name }}\nwidth = {{ width }}\n\n\ndepth = 1\n"


@pytest.fixture
def team(workplace: Path) -> Path:
    folder = workplace.parent / "team"
    folder.mkdir()
    (folder / "copier.yml").write_text(COPIER)
    (folder / "model.py.jinja").write_text(MODEL)
    (folder / "{{ project_name }}.txt").write_text("verbatim {{ width }}\n")
    return folder


def git(*words: str, inside: Path) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *identity, *words], cwd=inside, check=True, capture_output=True)


def commit(team: Path, tag: str) -> None:
    if not (team / ".git").exists():
        git("init", "-q", inside=team)
    git("add", "-A", inside=team)
    git("commit", "-qm", tag, inside=team)
    git("tag", tag, inside=team)


@pytest.fixture(autouse=True)
def fetch_anew():
    """Clear the cache: tests run several commands in one process, and change the template in between."""
    fetch.cache_clear()
    yield
    fetch.cache_clear()


def test_a_folder(scaffold, team):
    ran = scaffold("new", "my-exp", "--template", str(team), "--data", "width=16")
    assert ran.code == 0, ran.err
    assert Path("my-exp/model.py").read_text() == "# my-exp\nwidth = 16\n\n\ndepth = 1\n"
    assert Path("my-exp/my-exp.txt").read_text() == "verbatim {{ width }}\n"
    answers = yaml.safe_load(Path("my-exp/.scaffold/answers.yml").read_text())
    assert answers["template"] == str(team)
    assert answers["template_answers"] == {"project_name": "my-exp", "width": 16}


SECRET = "http://me:secretpw@nowhere.invalid/team.git"


def test_a_password_in_the_address_is_neither_kept_nor_shown(scaffold, team, monkeypatch):
    """Later git gets the password from its credentials; here it is told to use another URL instead."""
    (
        team / "[[ _copier_conf.answers_file ]].jinja".replace("[[", "{{").replace("]]", "}}")
    ).write_text("{{ _copier_answers|to_nice_yaml }}")
    commit(team, "v1")
    monkeypatch.setenv("HOME", str(team.parent))
    instead = f'[url "file://{team}"]\n insteadOf = {SECRET}\n insteadOf = http://nowhere.invalid/team.git\n'
    (team.parent / ".gitconfig").write_text(instead)
    words = ("--data", "secret=hush", "--data", "width=9", "--no-git")
    ran = scaffold("new", "my-exp", "--template", SECRET, *words)
    assert ran.code == 0, ran.err
    assert "Created `my-exp` from `http://nowhere.invalid/team.git`" in ran.out
    tree = read_tree(Path("my-exp"))
    assert not [path for path, file in tree.items() if b"secretpw" in file.data]
    answers = yaml.safe_load(tree[".scaffold/answers.yml"].data)
    assert answers["template"] == "http://nowhere.invalid/team.git"
    assert answers["command"].endswith("--template http://nowhere.invalid/team.git --data width=9")
    (team / "model.py.jinja").write_text(MODEL.replace("depth = 1", "depth = 2"))
    commit(team, "v2")
    fetch.cache_clear()
    os.chdir("my-exp")
    assert scaffold("update").code == 0
    assert "depth = 2" in Path("model.py").read_text()


def test_what_git_says_first_is_why(scaffold, workplace):
    """The last line of its output is only a guess."""
    ran = scaffold("new", "my-exp", "--template", f"file://{workplace}/nowhere")
    assert ran.code == 1 and ran.err.endswith(
        f"'{workplace}/nowhere' does not appear to be a git repository\n"
    )


@pytest.mark.parametrize("secret", ["me:secretpw@", "me:x@secretpw@", "secretpw@", ":secretpw@"])
def test_nor_where_the_template_cannot_be_reached(scaffold, secret):
    ran = scaffold("new", "my-exp", "--template", f"http://{secret}127.0.0.1:9/team.git")
    assert ran.code == 1 and "http://127.0.0.1:9/team.git" in ran.err
    assert "secretpw" not in ran.out + ran.err


def test_a_name_in_an_address_stays():
    """A user name alone can be a token only over http."""
    for same in (
        "git@github.com:x/y.git",
        "ssh://git@host/x",
        "https://git@host/x",
        "http://h/a@v2",
    ):
        assert public(same) == same
    assert public("ssh://me:secretpw@host/x") == "ssh://me@host/x"


def test_a_git_address_with_a_ref_and_an_update(scaffold, team):
    commit(team, "v1")
    (team / "model.py.jinja").write_text(MODEL.replace("depth = 1", "depth = 2"))
    commit(team, "v2")
    assert scaffold("new", "my-exp", "--template", f"file://{team}@v1", "--no-git").code == 0
    os.chdir("my-exp")
    text = Path("model.py").read_text()
    assert "depth = 1" in text
    Path("model.py").write_text(text.replace("width = 8", "width = 99"))
    fetch.cache_clear()
    assert scaffold("update", "--ref", "v2").code == 0
    assert Path("model.py").read_text() == "# my-exp\nwidth = 99\n\n\ndepth = 2\n"
    said = scaffold("update").out
    assert said.startswith("Nothing to do\n") and "the template stays at `v2`" in said


def test_other_answers_are_written_into_the_file_of_answers(scaffold, team):
    scaffold("new", "my-exp", "--template", str(team), "--no-git")
    os.chdir("my-exp")
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("width: 8", "width: 16"))
    assert scaffold("update").code == 0
    assert "width = 16" in Path("model.py").read_text()


@pytest.mark.parametrize("words", [("--task", "blank"), ("--extras", "ci"), ("--runtime", "0.1.0")])
def test_what_chooses_in_our_own_templates_is_refused(scaffold, team, workplace, words):
    ran = scaffold("new", "my-exp", "--template", str(team), *words)
    assert ran.code == 1 and "answer them with --data" in ran.err
    assert not any(workplace.iterdir())


def test_doctor_does_not_ask_for_what_it_may_not_need(scaffold, team, monkeypatch):
    scaffold("new", "my-exp", "--template", str(team), "--no-git")
    os.chdir("my-exp")
    bare = {"python": [3, 12, 1], "missing": [], "torch_error": "none", "runtime_error": "none"}
    monkeypatch.setattr(doctor, "ask", lambda *_: bare)
    ran = scaffold("doctor")
    assert ran.code == 0 and "torch" not in ran.out


def test_a_changed_folder_updates(scaffold, team):
    scaffold("new", "my-exp", "--template", "../team", "--no-git")
    os.chdir("my-exp")
    (team / "model.py.jinja").write_text(MODEL.replace("depth = 1", "depth = 2"))
    fetch.cache_clear()
    assert "depth = 2" in scaffold("diff").out
    assert scaffold("update").code == 0
    assert "depth = 2" in Path("model.py").read_text()


def test_nothing_of_it_runs_and_that_is_said(scaffold, team, workplace):
    with (team / "copier.yml").open("a") as config:
        config.write("_tasks: ['touch ../../../ran', 'touch ran']\n")
        config.write("_migrations: [{command: touch ran}]\n")
        config.write("_jinja_extensions: [os.system]\n")
    ran = scaffold("new", "my-exp", "--template", str(team))
    assert ran.code == 0, ran.err
    assert "_tasks, _migrations, _jinja_extensions" in ran.err
    assert not list(workplace.parent.rglob("ran"))


def test_features_are_not_for_them(scaffold, team):
    scaffold("new", "my-exp", "--template", str(team))
    os.chdir("my-exp")
    assert scaffold("add", "callback", "ema").code == 1
    assert scaffold("list").out.startswith("No features")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("copier.yml", BOMB),
        ("copier.yml", "a: &a [*a]\n"),
        ("copier.yml", "!!python/object/apply:os.system [touch ran]\n"),
        ("copier.yml", "{"),
        ("copier.yml", "- list\n"),
        ("copier.yml", "x: !include ../../secret\n"),
        ("model.py.jinja", "{% include '../../outside.txt' %}\n"),
        ("model.py.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}\n"),
        ("model.py.jinja", "{% for %}\n"),
        ("{{ '../' * 3 }}outside.txt.jinja", "x\n"),
        ("{{ '/tmp/scaffold-outside' }}.jinja", "x\n"),
    ],
)
def test_hostile_templates_do_nothing(scaffold, team, workplace, path, content):
    place = team / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    outside = workplace.parent / "outside.txt"
    outside.write_text("secret")
    ran = scaffold("new", "my-exp", "--template", str(team))
    assert ran.code == 1
    assert 1 <= len(ran.err.splitlines()) <= 3
    assert "Traceback" not in ran.err
    assert not any(workplace.iterdir())
    assert outside.read_text() == "secret"
    assert not Path("/tmp/scaffold-outside").exists()


def test_links_in_a_template_are_not_followed(scaffold, team, workplace):
    (workplace.parent / "outside.txt").write_text("secret")
    (team / "link.txt").symlink_to("../outside.txt")
    ran = scaffold("new", "my-exp", "--template", str(team))
    assert ran.code == 1
    assert "link.txt" in ran.err
    assert not any(workplace.iterdir())


def test_links_among_rendered_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to("../secret")
    assert read_tree(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "source",
    [
        "/nowhere",
        "~no-such-user/template",
        "--upload-pack=touch ran",
        "ext::sh -c touch% ran",
        "file:///nowhere@v1",
        "",
        "a@b",
    ],
)
def test_addresses_that_give_nothing(scaffold, workplace, source):
    ran = scaffold("new", "my-exp", "--defaults", f"--template={source}")
    assert ran.code == (0 if not source else 1)
    assert len(ran.err.splitlines()) <= 3
    assert not Path("ran").exists()


def test_unknown_data_is_named(scaffold, team):
    ran = scaffold("new", "my-exp", "--template", str(team), "--data", "depth=3")
    assert "does not ask for depth" in ran.err
    assert scaffold("new", "x", "--template", str(team), "--data", "oops").code == 1


def test_a_git_hook_in_a_template_is_refused(scaffold, team, workplace):
    (team / "copier.yml").write_text(COPIER + "_exclude: []\n")
    (team / "{{ '.git' }}/hooks").mkdir(parents=True)
    (team / "{{ '.git' }}/hooks/post-commit").write_text("touch ran")
    ran = scaffold("new", "my-exp", "--template", str(team))
    assert ran.code == 1
    assert ".git/hooks/post-commit" in ran.err
    assert not any(workplace.iterdir())


def test_copiers_own_answers_file_is_the_same_each_time(team, scaffold, monkeypatch):
    """It names the source of the template, not our temporary copy."""
    (team / "{{ _copier_conf.answers_file }}.jinja").write_text(
        "{{ _copier_answers|to_nice_yaml }}"
    )
    assert scaffold("new", "my-exp", "--template", str(team), "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    said = yaml.safe_load(Path(".copier-answers.yml").read_text())
    assert said["_src_path"] == str(team)
    fetch.cache_clear()
    assert "Nothing to do" in scaffold("update").out


def test_a_ref_of_a_folder_named_without_a_slash(team, scaffold, monkeypatch):
    commit(team, "v1")
    monkeypatch.chdir(team.parent)
    assert scaffold("new", "my-exp", "--template", "team@v1", "--no-git").code == 0
    refused = scaffold("new", "other", "--template", "team@v9", "--no-git")
    assert "it has no tag, branch or commit v9" in refused.err


def test_stubs_are_not_for_them_either(scaffold, team):
    scaffold("new", "my-exp", "--template", str(team), "--no-git")
    os.chdir("my-exp")
    for words in (("module", "x"), ("callback", "x", "--custom"), ("callback", "ema")):
        assert "uses its own template" in scaffold("add", *words).err


def test_your_own_changes_are_shown_when_the_template_is_gone(scaffold, team):
    scaffold("new", "my-exp", "--template", str(team), "--no-git")
    os.chdir("my-exp")
    edited = sorted(path for path in Path().iterdir() if path.is_file())[0]
    edited.write_text("mine\n")
    shutil.rmtree(team)
    fetch.cache_clear()
    ran = scaffold("diff", "--json")
    assert ran.code == 0
    assert [each["path"] for each in json.loads(ran.out)["own"]] == [edited.name]
    assert ran.err.startswith("note: cannot show what `update` would change: cannot fetch")
    assert scaffold("update").code == 1


@pytest.mark.parametrize("text", ["a\n{{ nmae.x }}\n", "a\n{% if %}\n"])
def test_a_file_that_cannot_be_rendered_is_named(scaffold, team, text):
    (team / "model.py.jinja").write_text(text)
    refused = scaffold("new", "my-exp", "--template", str(team))
    assert refused.code == 1
    assert "cannot render the template, `model.py.jinja`, line 2: " in refused.err


def test_into_a_repository_that_is_there(scaffold, team, workplace):
    (team / "README.md.jinja").write_text("{{ project_name }}\n")
    git("init", "-q", "my-exp", inside=workplace)
    Path("my-exp/README.md").write_text("mine\n")
    os.chdir("my-exp")
    ran = scaffold("new", ".", "--template", str(team))
    assert ran.out.splitlines()[-1] == "  kept yours: README.md"
    assert Path("README.md").read_text() == "mine\n"
    assert Path("my-exp.txt").read_text() == "verbatim {{ width }}\n"
    assert "Nothing to do" in scaffold("update").out


def test_an_update_says_from_where_it_came(scaffold, team, monkeypatch):
    """The version of the scaffolder says nothing about it."""
    commit(team, "v1")
    said = {str(team): "", f"{team}@v1": " at `v1`", f"file://{team}": " at `[0-9a-f]{10}`"}
    for number, (address, at) in enumerate(said.items()):
        assert scaffold("new", f"x{number}", "--template", address, "--no-git").code == 0
        monkeypatch.chdir(f"x{number}")
        settings = Path(".scaffold/answers.yml")
        settings.write_text(settings.read_text().replace("width: 8", "width: 9"))
        first = scaffold("update").out.splitlines()[0]
        place = address.removesuffix("@v1")
        assert re.fullmatch(f"Updated from `{re.escape(place)}`{at}", first)
        monkeypatch.chdir("..")


def test_a_file_becomes_a_folder_and_a_folder_a_file_at_once(scaffold, team, monkeypatch):
    (team / "docs").write_text("one\n")
    (team / "parts").mkdir()
    (team / "parts/a.txt").write_text("a\n")
    scaffold("new", "my-exp", "--template", str(team), "--no-git")
    monkeypatch.chdir("my-exp")
    before = read_tree(Path())
    (team / "docs").unlink()
    (team / "docs").mkdir()
    (team / "docs/index.txt").write_text("two\n")
    shutil.rmtree(team / "parts")
    (team / "parts").write_text("b\n")
    fetch.cache_clear()
    assert scaffold("update").code == 0
    assert Path("docs/index.txt").read_text() == "two\n"
    assert Path("parts").read_text() == "b\n"
    assert scaffold("update").out.startswith("Nothing to do")
    assert scaffold("undo").code == 0
    after = read_tree(Path())
    assert {p: f for p, f in after.items() if "work/" not in p} == before
    Path("parts/mine.txt").write_text("mine\n")
    Path("docs").write_text("mine\n")
    assert scaffold("update").code == 0
    assert Path("parts/mine.txt").read_text() == Path("docs").read_text() == "mine\n"
    assert Path("parts.new").read_text() == "b\n"
