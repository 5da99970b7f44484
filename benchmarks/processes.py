"""Rows of whole processes: imports, start-up, and the scaffolder's commands."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from table import Contestant, Row, installed

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "RES_OPTIONS": "attempts:0",  # no DNS lookups, which torch's rendezvous makes: a lost answer takes 5 s
    "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT)]),
    **{f"GIT_{who}_{what}": "bench@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}  # fmt: skip
TYPER_HELLO = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str) -> None:
    "Say hello."
app(["--help"])
"""
FIRST_STEP = [
    "--trainer.max_steps=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
]
FEATURE = ("callback", "ema")
COPY = ("copy", "--defaults", "--quiet")
UPDATE = ("update", "--defaults", "--quiet", "--vcs-ref=v2")


def python(*words: object) -> list[str]:
    """A Python command; a word that is a function is called to get the word, when first needed."""
    return [sys.executable, *_flags, *(str(word() if callable(word) else word) for word in words)]


_flags: list[str] = []
_said: list[str] = []


@contextmanager
def traced(flags: list[str]) -> Iterator[list[str]]:
    """Add flags to the Python commands; yields the list of what they write to stderr."""
    _flags[:] = flags
    yield _said
    _flags.clear()


def execute(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    _said.append(done.stderr)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def seconds(command: list[str], folder: Path) -> float:
    began = time.perf_counter()
    execute(command, folder)
    return time.perf_counter() - began


def timed(*words: object, start: Callable[[], Path] | None = None) -> Contestant:
    """The time of a Python command in an empty folder, or in a copy of the folder `start()`."""

    def contestant() -> float:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "work"
            shutil.copytree(start(), folder, symlinks=True) if start else folder.mkdir()
            command = python(*words)
            return seconds(command, folder)

    return contestant


# -- inputs of the commands, made once ------------------------------------------------------------------


@functools.cache
def scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def project() -> Path:
    execute(python("-m", "scaffold", "new", "my-exp", "--defaults", "--no-git"), scratch())
    return scratch() / "my-exp"


SETTINGS = """_subdirectory: files
_exclude: []
_envops: {undefined: jinja2.StrictUndefined, trim_blocks: true, lstrip_blocks: true}
"""


@functools.cache
def template() -> Path:
    """The default project as a Copier template in git: v1, and v2 with one more feature."""
    from scaffold.answers import default_answers
    from scaffold.catalogue import packaged
    from scaffold.render import sources, variables

    folder, catalogue = scratch() / "template", packaged()
    for version, add in (("v1", False), ("v2", True)):
        answers = default_answers("my-exp", catalogue)
        answers = answers.with_feature(*FEATURE) if add else answers
        parts = answers.parts(catalogue)
        for path, source in sources(parts, answers.package).items():
            place = folder / "files" / f"{path}.jinja"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(source.read_text().replace("my_package", answers.package))
        given = {name: _question(value) for name, value in variables(answers, parts).items()}
        settings = [SETTINGS, "_answers_file: .copier-answers.yml\n"]
        questions = [f"{name}: {json.dumps(question)}\n" for name, question in given.items()]
        (folder / "copier.yml").write_text("".join(settings + questions))
        keeps = folder / "files" / "{{ _copier_conf.answers_file }}.jinja"
        keeps.write_text("{{ _copier_answers | to_nice_yaml }}")
        commit(folder, version)
    return folder


def _question(value: object) -> dict[str, object]:
    return {"type": "yaml", "default": json.dumps(value)}


def commit(folder: Path, tag: str) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", tag], ["tag", tag]):
        execute(["git", *words], folder)


@functools.cache
def copied() -> Path:
    """A project that Copier generated from the template, in git, as `copier update` needs it."""
    folder = scratch() / "copied"
    execute(python("-m", "copier", *COPY, "--vcs-ref=v1", template(), folder), scratch())
    commit(folder, "made")
    return folder


def rows() -> list[Row]:
    imports = "import torch", "from scaffold_runtime import LightningModule, Trainer"
    start = {
        "base": timed(BENCHMARKS / "plain_digits.py"),
        "ours": timed("train.py", *FIRST_STEP, start=project),
    }
    importing = {"base": timed("-c", imports[0]), "ours": timed("-c", imports[1])}
    if installed("Lightning"):
        lightning = "from lightning.pytorch import LightningModule, Trainer"
        importing["Lightning"] = timed("-c", lightning)
        start["Lightning"] = timed(BENCHMARKS / "lightning_digits.py")
    hello = timed("-c", TYPER_HELLO)
    return [
        Row("import", "`import scaffold_runtime`, against `import torch`", 1.10, "s", importing),
        Row("startup", "`python train.py` to the first step, against the plain script", 1.3, "s", start,
            rounds=5, peer_rounds=1),
        Row("help", "`scaffold --help`, against a bare Typer hello", 1.5, "s",
            {"base": hello, "ours": timed("-m", "scaffold", "--help")}),
        Row("new", "`scaffold new`, against `copier copy` of the same tree", 1.2, "s",
            {"base": timed("-m", "copier", *COPY, "--vcs-ref=v1", template, "."),
             "ours": timed("-m", "scaffold", "new", "my-exp", "--defaults", "--no-git")}, rounds=5),
        Row("add", "`scaffold add`, against `copier update`", 0.4, "s",
            {"base": timed("-m", "copier", *UPDATE, start=copied),
             "ours": timed("-m", "scaffold", "add", *FEATURE, start=project)}, rounds=5),
    ]  # fmt: skip
