"""27 combinations of changes by the user and by the templates; none loses a line of the user.

Each starts from a project of generation 0.0.1, lets the user do something, and then runs one
command, mostly the update to 0.0.2. A file's content is compared as bytes; None means absent.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

UPDATE = ("update",)
EMA = "configs/callbacks/ema.yaml"
SETTINGS = b"# settings\nlr: 0.1\n\nsteps: 10\n\ncallbacks:\n  - first\n\nseed: 42\n"
SETTINGS_2 = SETTINGS.replace(b"lr: 0.1", b"lr: 0.2")
TRAIN_2 = b'''"""Train."""

STEPS = 20


def main() -> None:
    print("training", STEPS)


if __name__ == "__main__":
    main()
'''
NARROW_2 = b'''"""The model."""


class Model:
  width = 8

  def forward(self, x: float) -> float:
    return x * self.width + 1

  def backward(self, x: float) -> float:
    return x / self.width
'''
LAYERS_2 = b'''"""Blocks."""


def linear(x: float) -> float:
    return 2 * x


def square(x: float) -> float:
    return x * x


def cube(x: float) -> float:
    return x * x * x
'''


@dataclass(frozen=True)
class Scenario:
    name: str
    edit: Callable[[], object] = lambda: None
    run: tuple[str, ...] = UPDATE
    code: int = 0
    files: dict[str, bytes | None] = field(default_factory=dict)
    said: tuple[str, ...] = ()


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def swap(path: str, old: bytes, new: bytes) -> None:
    data = read(path)
    assert old in data
    write(path, data.replace(old, new))


def all_of(*steps: Callable[[], object]) -> Callable[[], None]:
    return lambda: [step() for step in steps] and None


def crlf(path: str) -> None:
    write(path, read(path).replace(b"\n", b"\r\n"))


def to_link(path: str, elsewhere: str) -> None:
    os.replace(path, elsewhere)
    os.symlink(elsewhere, path)


def repeat(path: str, data: bytes) -> None:
    write(path, read(path) + data + data)


SCENARIOS = [
    Scenario(
        "1 edits far from the template's",
        lambda: repeat("train.py", b"\n# mine\n"),
        files={"train.py": TRAIN_2 + b"\n# mine\n\n# mine\n"},
    ),
    Scenario(
        "2 the same change as the template's",
        lambda: swap("settings.yaml", b"lr: 0.1", b"lr: 0.2"),
        files={"settings.yaml": SETTINGS_2},
    ),
    Scenario(
        "3 a file of the user's own",
        lambda: write("my_exp/own.py", b"own = 1\n"),
        files={"my_exp/own.py": b"own = 1\n"},
    ),
    Scenario(
        "4 an own list entry where a feature adds one",
        lambda: swap("settings.yaml", b"  - first\n", b"  - first\n  - mine\n"),
        run=("add", "callback", "ema"),
        code=2,
        files={
            "settings.yaml": SETTINGS.replace(b"first", b"first\n  - mine"),
            EMA: None,
        },
        said=("settings.yaml",),
    ),
    Scenario(
        "5 no final newline",
        lambda: write("train.py", read("train.py").removesuffix(b"\n") + b"  # end"),
        files={"train.py": TRAIN_2.removesuffix(b"\n") + b"  # end"},
    ),
    Scenario(
        "6 the same line",
        lambda: swap("train.py", b"STEPS = 10", b"STEPS = 11"),
        code=2,
        said=("train.py",),
        files={"CITATION.cff": None},
    ),
    Scenario(
        "7 an edit to a file that does not change",
        lambda: repeat("run.sh", b"echo mine\n"),
        files={"run.sh": b"#!/bin/sh\npython train.py\necho mine\necho mine\n"},
    ),
    Scenario(
        "8 deleted by the user, changed by the template",
        lambda: os.remove("settings.yaml"),
        files={"settings.yaml": None},
        said=("gone", "settings.yaml", "you deleted it"),
    ),
    Scenario(
        "9 renamed and edited by the user",
        all_of(
            lambda: os.rename("my_exp/model.py", "my_exp/network.py"),
            lambda: swap("my_exp/network.py", b"width = 8", b"width = 16"),
        ),
        files={
            "my_exp/model.py": None,
            "my_exp/network.py": b'"""The model."""\n\n\nclass Model:\n    width = 16\n\n'
            b"    def forward(self, x: float) -> float:\n        return x * self.width + 1\n\n"
            b"    def backward(self, x: float) -> float:\n        return x / self.width\n",
        },
        said=("my_exp/network.py",),
    ),
    Scenario(
        "10 a new feature meets a file of the user's own",
        lambda: write(EMA, b"mine: 1\n"),
        run=("add", "callback", "ema"),
        files={EMA: b"mine: 1\n", f"{EMA}.new": b"class_path: Ema\n\ndecay: 0.9\n\nevery: 1\n"},
        said=("beside", f"{EMA}.new", "you have a file of that name"),
    ),
    Scenario(
        "10b the same, and git ignores the file",
        lambda: write("secret.yaml", b"mine: 1\n"),
        run=("add", "callback", "secret"),
        files={"secret.yaml": b"mine: 1\n", "secret.yaml.new": b"class_path: Secret\n"},
        said=("secret.yaml.new",),
    ),
    Scenario(
        "11 edits in many files at once",
        all_of(
            lambda: repeat("README.md", b"mine\n"),
            lambda: repeat("my_exp/model.py", b"# mine\n"),
            lambda: swap("settings.yaml", b"seed: 42", b"seed: 7"),
        ),
        files={"settings.yaml": SETTINGS_2.replace(b"42", b"7")},
    ),
    Scenario(
        "12 a binary changed by both",
        lambda: write("logo.bin", b"\x00\x02mine"),
        files={"logo.bin": b"\x00\x02mine", "logo.bin.new": b"\x00\x01logo two\xff"},
        said=("logo.bin.new", "binary"),
    ),
    Scenario(
        "13 converted to CRLF, with one edit",
        all_of(
            lambda: crlf("settings.yaml"), lambda: swap("settings.yaml", b"seed: 42", b"seed: 7")
        ),
        files={"settings.yaml": SETTINGS_2.replace(b"42", b"7").replace(b"\n", b"\r\n")},
    ),
    Scenario(
        "14 dropped by the template, edited by the user",
        lambda: repeat("old_notes.md", b"mine\n"),
        files={"old_notes.md": b"# Notes of generation one\n\nNothing to see.\nmine\nmine\n"},
        said=("keep", "old_notes.md", "you edited it"),
    ),
    Scenario(
        "15 renamed by the template, edited by the user",
        lambda: swap("my_exp/layers.py", b"return x * x * x", b"return x**3  # mine"),
        files={
            "my_exp/layers.py": None,
            "my_exp/blocks.py": LAYERS_2.replace(b"x * x * x", b"x**3  # mine"),
        },
        said=("move", "my_exp/layers.py", "my_exp/blocks.py"),
    ),
    Scenario(
        "16 the whole file indented anew",
        lambda: write("my_exp/model.py", read("my_exp/model.py").replace(b"    ", b"  ")),
        files={"my_exp/model.py": NARROW_2},
    ),
    Scenario(
        "17 made executable by the user",
        lambda: os.chmod("train.py", 0o755),
        files={"train.py": TRAIN_2},
    ),
    Scenario(
        "18 own folders and odd names",
        all_of(
            lambda: write("sub folder/größe \u2603.txt", b"mine\n"),
            lambda: write("notebooks/a.ipynb", b"{}"),
        ),
        files={"sub folder/größe \u2603.txt": b"mine\n", "notebooks/a.ipynb": b"{}"},
    ),
    Scenario(
        "19 an empty file of the user's",
        lambda: write("empty.txt", b""),
        files={"empty.txt": b""},
    ),
    Scenario(
        "20 replaced by a link",
        lambda: to_link("settings.yaml", "elsewhere.txt"),
        files={
            "elsewhere.txt": SETTINGS,
            "settings.yaml.new": SETTINGS_2,
        },
        said=("settings.yaml.new", "yours is a link"),
    ),
    Scenario(
        "21 a feature removed whose config was edited",
        lambda: swap("configs/callbacks/stop.yaml", b"Stop", b"Stop\npatience: 9"),
        run=("remove", "callback", "stop"),
        files={"configs/callbacks/stop.yaml": b"class_path: Stop\npatience: 9\n"},
        said=("keep", "configs/callbacks/stop.yaml"),
    ),
    Scenario(
        "22 an own file where the update brings one",
        lambda: write("CITATION.cff", b"mine\n"),
        files={"CITATION.cff": b"mine\n", "CITATION.cff.new": b"title: my-exp\n"},
        said=("beside", "CITATION.cff.new"),
    ),
    Scenario(
        "23 an edit on the line next to the template's",
        lambda: swap("settings.yaml", b"# settings\n", b"# my settings\n"),
        code=2,
        said=("settings.yaml",),
    ),
    Scenario(
        "24 one Latin-1 byte",
        lambda: repeat("train.py", b"# caf\xe9\n"),
        files={"train.py": TRAIN_2 + b"# caf\xe9\n# caf\xe9\n"},
    ),
    Scenario(
        "25 the same block twice",
        lambda: repeat("my_exp/model.py", b"\n    def forward(self, x):\n        return x\n"),
    ),
    Scenario(
        "26 a dirty tree",
        all_of(
            lambda: subprocess.run(["git", "init", "-q"], check=True),
            lambda: subprocess.run(["git", "add", "."], check=True),
            lambda: swap("settings.yaml", b"seed: 42", b"seed: 8"),
        ),
        files={"settings.yaml": SETTINGS_2.replace(b"42", b"8")},
    ),
    Scenario(
        "27 a BOM",
        lambda: write("settings.yaml", b"\xef\xbb\xbf" + read("settings.yaml")),
        files={"settings.yaml": b"\xef\xbb\xbf" + SETTINGS_2},
    ),
]


@pytest.fixture
def project(scaffold, generation, monkeypatch):
    """A project of generation 0.0.1, without git."""
    generation("0.0.1")
    assert scaffold("new", "my-exp", "--no-git").code == 0
    monkeypatch.chdir("my-exp")
    return scaffold


def snapshot() -> dict[str, bytes]:
    files = (path for path in Path().rglob("*") if path.is_file() and not path.is_symlink())
    return {p.as_posix(): p.read_bytes() for p in files if p.parts[0] not in (".git", ".scaffold")}


def user_lines(before: dict[str, bytes], after: dict[str, bytes]) -> set[tuple[str, bytes]]:
    """Lines that the user's edit brought in, with the file they are in."""
    return {
        (path, line.rstrip(b"\r\n"))
        for path, data in after.items()
        for line in data.splitlines()
        if line not in before.get(path, b"").splitlines()
    }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_lost(scenario, project, generation):
    if scenario.run[0] == "remove":
        project("add", *scenario.run[1:])
    pristine = snapshot()
    scenario.edit()
    edited = snapshot()
    if scenario.run == UPDATE:
        generation("0.0.2")
    dry = project(*scenario.run, "--dry-run")
    assert snapshot() == edited
    ran = project(*scenario.run)
    assert ran.code == dry.code == scenario.code, ran.err
    for path, data in scenario.files.items():
        assert (read(path) if os.path.lexists(path) else None) == data
    for word in scenario.said:
        assert word in ran.out + ran.err
    everything = b"\n".join(snapshot().values()).replace(b"\r\n", b"\n").splitlines()
    for path, line in user_lines(pristine, edited):
        assert line in everything or path in ran.out
    if ran.code == 2:
        assert snapshot() == edited


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if each.run == UPDATE and not each.code],
    ids=lambda scenario: scenario.name,
)
def test_a_second_run_changes_nothing(scenario, project, generation):
    scenario.edit()
    generation("0.0.2")
    project("update")
    first = snapshot()
    assert "Nothing to do" in project("update").out
    assert snapshot() == first


def test_17_keeps_the_executable_bit(project, generation):
    os.chmod("train.py", 0o755)
    generation("0.0.2")
    project("update")
    assert os.access("train.py", os.X_OK)


def test_20_the_link_stays_a_link(project, generation):
    to_link("settings.yaml", "elsewhere.txt")
    generation("0.0.2")
    project("update")
    assert os.readlink("settings.yaml") == "elsewhere.txt"
