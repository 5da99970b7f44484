"""All commands have help with an example, JSON output, and a dry run that is exact."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest
import typer

from scaffold.cli import app

COMMANDS = typer.main.get_command(app)
READING = {"list", "diff"}


def options(name: str) -> set[str]:
    with click.Context(COMMANDS):
        return {word for each in COMMANDS.commands[name].params for word in each.opts}


def test_the_commands_are_those_of_the_design():
    named = "new add remove list diff update resolve undo doctor"
    assert set(COMMANDS.commands) == set(named.split())


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))
def test_each_has_an_example_json_and_a_dry_run(scaffold, name):
    shown = scaffold(name, "--help")
    assert shown.code == 0
    assert f"scaffold {name}" in shown.out.partition("Example")[2]
    assert "--json" in options(name)
    assert ("--dry-run" in options(name)) == (name not in READING)


def tree() -> dict[str, bytes]:
    found = (path for path in Path().rglob("*") if path.is_file())
    return {path.as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "words",
    [
        ["new", "other", "--task", "blank", "--no-git"],
        ["add", "callback", "ema"],
        ["add", "extra", "kubernetes"],
        ["add", "module", "resnet"],
        ["remove", "callback", "early-stopping"],
        ["remove", "logger", "tensorboard", "--conflict", "mine"],
        ["update", "--runtime", "0.1.0"],
        ["undo"],
        ["doctor", "--rebuild"],
    ],
    ids=" ".join,
)
def test_a_dry_run_says_what_is_then_done(scaffold, words):
    """A dry run prints the same report and writes nothing; the real run changes what it reported."""
    assert scaffold("new", "my-exp", "--task", "blank", "--no-git").code == 0
    os.chdir("my-exp")
    scaffold("add", "logger", "wandb")
    config = Path("configs/callbacks/early_stopping.yaml")
    config.write_text(config.read_text().replace("patience: 5", "patience: 9"))
    Path("train.py").unlink()
    before = tree()
    promised = json.loads(scaffold(*words, "--dry-run", "--json").out)
    assert {k: v for k, v in tree().items() if "work" not in k} == {
        k: v for k, v in before.items() if "work" not in k
    }
    done = json.loads(scaffold(*words, "--json").out)
    assert (promised.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert promised == done
    after = tree()
    changed = {k for k in {*before, *after} if before.get(k) != after.get(k)}
    changed = {k for k in changed if ".scaffold/" not in k}
    if words[0] == "new":
        said = {f"other/{path}" for path in done["files"] if ".scaffold/" not in path}
    else:
        said = {step["path"] for step in done["steps"] if step["verb"] != "keep"}
    assert changed == said


@pytest.mark.parametrize(
    ("words", "code"),
    [(("new", "class"), 1), (("list", "--x"), 2), (("update",), 3), (("add", "callback", "no"), 3)],
)
def test_an_error_in_json_is_an_object(scaffold, words, code):
    ran = scaffold(*words, "--json")
    assert ran.code == code
    if code != 2:  # the command line itself is wrong: that is said to a person
        assert ran.err == ""
        assert list(json.loads(ran.out)) == ["error"]
        assert scaffold(*words).err.startswith(f"error: {json.loads(ran.out)['error'][:40]}")


def piped(*words: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    """Run in another process, with its own streams."""
    return subprocess.run([sys.executable, "-m", "scaffold", *words], stderr=-1, **more)


@pytest.fixture
def my_exp(scaffold, monkeypatch) -> None:
    scaffold("new", "my-exp", "--task", "blank", "--no-git")
    monkeypatch.chdir("my-exp")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_what_an_encoding_lacks_is_escaped(my_exp, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    with Path("train.py").open("a", encoding="utf-8") as file:
        file.write("# é → 模\n")
    text, data = (piped("diff", *words, stdout=-1) for words in ([], ["--json"]))
    assert [each.returncode for each in (text, data)] == [0, 0], text.stderr
    assert "# é → 模" in json.loads(data.stdout)["own"][0]["text"]
    assert b"\n+# " in text.stdout


def test_files_are_utf_8_whatever_the_locale(my_exp, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    Path("ours").mkdir()
    Path("ours/copier.yml").write_text("x: {type: str, help: Größe, default: 模}\n", "utf-8")
    Path("ours/r.md.jinja").write_text("ü {{x}}\n", "utf-8")
    assert piped("new", "other", "--template", "ours", "--no-git").returncode == 0
    assert Path("other/r.md").read_text("utf-8") == "ü 模\n"


@pytest.mark.skipif(os.name == "nt", reason="there are no signals on Windows")
def test_ctrl_c_while_it_starts_is_no_traceback(workplace, monkeypatch):
    Path("typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.setenv("PYTHONPATH", str(workplace))
    command = [sys.executable, "-m", "scaffold", "list"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # as in the foreground
    ran = subprocess.run(command, capture_output=True, preexec_fn=heard)
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, b"")


def test_a_reader_may_leave(my_exp):
    Path("train.py").write_text("# long\n" * 100_000)
    for words in (["diff"], ["diff", "--json"], ["add", "callback", "ema"]):
        reader, writer = os.pipe()
        os.close(reader)
        ran = piped(*words, stdout=writer)
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (0, b""), words
    assert Path("configs/callbacks/ema.yaml").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_is_done_and_cannot_be_printed_is_no_error(my_exp):
    with open("/dev/full", "wb") as full:
        added, listed = (piped(*w, stdout=full) for w in (["add", "callback", "ema"], ["list"]))
    assert (added.returncode, listed.returncode) == (0, 1)
    assert added.stderr.startswith(b"note: done, but the report cannot be printed: No sp")
    assert listed.stderr == b"error: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_streams_may_be_closed(my_exp):
    command = f"{sys.executable} -m scaffold add callback ema >&- 2>&- <&-"
    assert subprocess.run(command, shell=True).returncode == 0
    assert Path("configs/callbacks/ema.yaml").exists()
