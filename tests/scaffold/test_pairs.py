"""All pairs of features: rendered, parsed, and their configuration instantiated."""

import ast
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tomllib
import yaml

from scaffold.answers import EXCLUSIVE, default_answers
from scaffold.catalogue import KINDS, packaged
from scaffold.files import File, write_tree
from scaffold.lock import Entry
from scaffold.render import render

CATALOGUE = packaged()
FEATURES = [part for kind in CATALOGUE.features.values() for part in kind.values()]
PAIRS = list(itertools.combinations(FEATURES, 2))
LOADERS = {
    ".py": ast.parse,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
    ".toml": tomllib.loads,
    ".ipynb": json.loads,
}


def with_features(*chosen):
    answers = replace(default_answers("my-exp", CATALOGUE), task="blank")
    answers = replace(answers, features=dict.fromkeys(KINDS, ()))
    for part in chosen:
        answers = answers.with_feature(part.kind, part.name)
    return answers


def instantiate(folder: Path, strategy: str, classes) -> None:
    from scaffold_runtime.cli.project import ProjectCLI
    from scaffold_runtime.cli.settings import Settings
    from scaffold_runtime.strategies import STRATEGIES

    refused = strategy and strategy not in STRATEGIES  # `scaffold doctor` says so
    words = ["--trainer.accelerator=cpu", *["--trainer.strategy=auto"] * bool(refused)]
    configs = Settings(folder / "configs", words)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli = ProjectCLI(*classes, "fit", configs)
    made = {type(each).__name__ for each in (*cli.trainer.callbacks, *cli.trainer.loggers)}
    for kind in ("callbacks", "loggers"):
        for path in (folder / "configs" / kind).glob("*.yaml"):
            assert yaml.safe_load(path.read_text())["class_path"].rpartition(".")[2] in made


@functools.cache
def everything() -> dict[str, File]:
    return render(
        with_features(*(part for part in FEATURES if part.kind not in EXCLUSIVE)), CATALOGUE
    )


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """The model and the data module of a project with every feature's files."""
    write_tree(everything(), tmp_path / "my-exp")
    monkeypatch.syspath_prepend(tmp_path / "my-exp")
    model, data = importlib.import_module("my_exp.model"), importlib.import_module("my_exp.data")
    yield model.Model, data.DataModule
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_exp"]:
        del sys.modules[name]


@pytest.mark.slow
def test_every_pair_renders_parses_and_instantiates(classes, tmp_path, monkeypatch):
    assert len(PAIRS) == len(FEATURES) * (len(FEATURES) - 1) // 2 >= 276
    formatted = {path: Entry(file) for path, file in everything().items()}
    seen, failed = set(), {}
    for number, pair in enumerate(PAIRS):
        answers = with_features(*pair)
        try:
            tree = render(answers, CATALOGUE, base=formatted)
            for path, file in tree.items():
                LOADERS.get(Path(path).suffix, str)(file.data.decode())
            configs = {path: file for path, file in tree.items() if path.startswith("configs/")}
            key = frozenset((path, file.data) for path, file in configs.items())
            if key not in seen and all(map(installed, pair)):
                folder = tmp_path / f"pair{number}"
                write_tree(configs, folder)
                monkeypatch.chdir(folder)
                instantiate(folder, "".join(answers.on("strategy")), classes)
                seen.add(key)
        except (Exception, SystemExit) as error:
            failed[" + ".join(f"{part.kind}/{part.name}" for part in pair)] = repr(error)
    assert failed == {}
    assert len(seen) >= 100


def installed(part) -> bool:
    absent = part.imports and importlib.util.find_spec(part.imports) is None
    return part.kind == "strategy" or not absent
