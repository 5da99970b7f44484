"""A project lives on while its templates change: after an update each line is where its side has it.

The older templates are today's with lines taken out, put in and changed; so are, beside these, the files of the user.
"""

import functools
import random
from collections import Counter
from pathlib import Path

import pytest

from scaffold.answers import Answers
from scaffold.catalogue import Catalogue, packaged
from scaffold.files import File, Tree
from scaffold.merge import is_binary, parses
from scaffold.render import render

TASKS = ["blank", "image-classification", "tabular"]
Lines = Counter[str]


@functools.cache
def rendered(task: str) -> Tree:
    catalogue = packaged()
    answers = Answers("my-exp", task, catalogue.defaults(catalogue.task(task)))
    return render(answers, catalogue)


def changed(path: str, data: bytes, chance: random.Random, word: str) -> bytes:
    """The text with a few random changes, each of which keeps it parseable."""
    lines = data.decode().split("\n")
    for number in range(chance.randrange(4)):
        at = chance.randrange(len(lines))
        tries = {
            "out": lines[:at] + lines[at + chance.randrange(1, 5) :],
            "in": [*lines[:at], f"# {word} {number} of {path}", *lines[at:]],
            "to": [*lines[:at], f"{lines[at]}  # {word} {number} of {path}", *lines[at + 1 :]],
        }
        other = tries[chance.choice(list(tries))]
        if other and parses(path, "\n".join(other).encode()):
            lines = other
    return "\n".join(lines).encode()


def on_disk() -> dict[str, bytes]:
    files = (path for path in Path().rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if "work" not in path.parts}


def lines_of(data: bytes) -> Lines:
    return Counter(line.strip() for line in data.decode().splitlines() if line.strip())


def misplaced(base: Lines, mine: Lines, template: Lines, merged: Lines) -> list[str]:
    """Lines that only one side inserted or deleted, but that the merged file treats differently."""
    once = [
        line for line in base | mine | template if max(base[line], mine[line], template[line]) == 1
    ]
    wanted = {line: mine[line] if template[line] == base[line] else template[line] for line in once}
    return [line for line in once if bool(merged[line]) != bool(wanted[line])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", TASKS)
def test_each_line_is_where_its_side_has_it(scaffold, monkeypatch, task, seed):
    chance = random.Random(f"{task} {seed}")
    now = rendered(task)
    texts = sorted(path for path, file in now.items() if not is_binary(file.data))
    was = {path: File(changed(path, now[path].data, chance, "older")) for path in texts}
    monkeypatch.setattr("scaffold.create.render", lambda *_: {**now, **was})
    monkeypatch.setattr("scaffold.transition.render", lambda *_: now)
    before = Catalogue(packaged().root, "0.0.9")
    monkeypatch.setattr("scaffold.cli.packaged", lambda: before)
    assert scaffold("new", "my-exp", "--no-git", "--task", task).code == 0
    monkeypatch.chdir("my-exp")
    for path in texts:
        Path(path).write_bytes(changed(path, was[path].data, chance, "mine"))
    mine = on_disk()

    assert (code := scaffold("update", "--conflict", "markers").code) in (0, 2)
    merged = on_disk()
    for path in texts:
        sides = [
            lines_of(each) for each in (was[path].data, mine[path], now[path].data, merged[path])
        ]
        base, own, _, after = sides
        assert not [line for line in own if line not in base and line not in after], path
        assert "<<<<<<< mine" in after or not misplaced(*sides), path
    assert code == 2 or "Nothing to do" in scaffold("update").out
    assert scaffold("undo").code == 0
    assert on_disk() == mine
