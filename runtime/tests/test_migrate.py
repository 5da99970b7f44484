"""`python -m scaffold_runtime.migrate`: imports of Lightning's become ours, and what is not here is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scaffold_runtime.migrate import main, migrate

CHANGED = """
    import lightning as L -> import scaffold_runtime as L
    import lightning -> import scaffold_runtime as lightning
    import pytorch_lightning as pl -> import scaffold_runtime as pl
    import os, pytorch_lightning, torch -> import os, scaffold_runtime as pytorch_lightning, torch
    import lightning.pytorch as pl -> import scaffold_runtime as pl
    import lightning.pytorch.callbacks -> import scaffold_runtime as lightning
    import lightning.pytorch.callbacks as c -> import scaffold_runtime.callbacks as c
    from lightning import pytorch as pl -> from scaffold_runtime import pytorch as pl
    from lightning.pytorch import * -> from scaffold_runtime import *
    'é'; from pytorch_lightning import Trainer -> 'é'; from scaffold_runtime import Trainer
    from lightning.pytorch.callbacks import (#/ Timer/) -> from scaffold_runtime.callbacks import (#/ Timer/)
    from lightning.fabric.utilities.seed import seed_everything -> from scaffold_runtime import seed_everything
    from lightning.fabric.utilities.types import _PATH -> from scaffold_runtime.utilities.types import _PATH
    from lightning_fabric.plugins.io.torch_io import CheckpointIO -> from scaffold_runtime.plugins import CheckpointIO
    from pytorch_lightning.utilities.cli import LightningCLI -> from scaffold_runtime.cli import LightningCLI
    {"class_path": "lightning.pytorch.loggers.CSVLogger"} -> {"class_path": "scaffold_runtime.loggers.CSVLogger"}
    'é', 'pytorch_lightning.Trainer' -> 'é', 'scaffold_runtime.Trainer'
    from lightning_fabric.a import MPSAccelerator -> from scaffold_runtime.accelerators import MPSAccelerator
    from pytorch_lightning.utilities.apex import rank_zero_info -> from scaffold_runtime.utilities import rank_zero_info
"""  # "/" is a new line
KEPT = [
    "import torch, torchmetrics",
    "import lightning_utilities",
    "import lightning_of_mine.pytorch",
    "from .lightning import Net",
    "x = 'import lightning'",
    "log('lightning.pytorch'), 'see lightning.Trainer', r'lightning.Trainer'",
    "lightning = 1\nlightning.nothing",
    "text = ('%s'\n% 1)",
]
ABSENT = {
    "from lightning.fabric import Fabric": "there is no `Fabric` of lightning.fabric here.",
    "from lightning.fabric.utilities.cloud_io import get_filesystem": " Write `fsspec.core.url_to_fs(path)[0]`.",
    "from lightning.pytorch.core.saving import _load": "_load. Write `torch.load(path)`.",
    "from lightning.pytorch.a import Timer, x": "there is no `x` of lightning.pytorch.a here.",
    "x = 'lightning.pytorch.callbacks.Spike'": "there is no scaffold_runtime.callbacks.Spike.",
    "from pytorch_lightning.a import LightningLoggerBase": " Write `scaffold_runtime.loggers.Logger`.",
    "import lightning_fabric": "there is no scaffold_runtime.fabric.",
    "import lightning as L\nL.Fabric()": "there is no scaffold_runtime.Fabric.",
    "import lightning.pytorch as pl\npl.callbacks.Spike.x": "there is no scaffold_runtime.callbacks.Spike.",
    "from lightning.pytorch.loggers import Timer": "`Timer` is in scaffold_runtime.callbacks.",
    "from \\\n  lightning import Trainer": "write `from scaffold_runtime import` in one line.",
}


@pytest.mark.parametrize("change", re.findall(r"    (.*)\n", CHANGED))
def test_imports_become_ours(change: str) -> None:
    before, expected = change.replace("/", "\n").split(" -> ")
    after, said = migrate(before, ".py")
    assert after == expected
    assert said == []
    compile(after, "after.py", "exec")


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("HyperparametersMixin", "core.mixins"),
        ("LightningEnvironment", "plugins.environments"),
        ("rank_zero_experiment", "loggers.logger"),
    ],
)
def test_names_of_places_that_are_not_here_are_found(name: str, home: str) -> None:
    text = f"from lightning.fabric.a import {name}"
    assert migrate(text, ".py") == (f"from scaffold_runtime.{home} import {name}", [])


@pytest.mark.parametrize("text", KEPT)
def test_other_code_is_left_alone(text: str) -> None:
    assert migrate(text, ".py") == (text, [])


@pytest.mark.parametrize("text", ABSENT)
def test_what_is_not_here_is_said(text: str) -> None:
    _, said = migrate(text, ".py")
    assert {line for line, _ in said} == {2 if "\nL." in text or "\npl." in text else 1}
    assert said[-1][1].endswith(ABSENT[text])


def test_a_name_that_another_package_has_too_is_not_followed() -> None:
    text = "import lightning as pl\ndef f():\n    import polars as pl\n    pl.col"
    assert migrate(text, ".py") == (text.replace("import lightning", "import scaffold_runtime"), [])


def test_class_paths_of_yaml(tmp_path: Path) -> None:
    text = (
        "- class_path: lightning.pytorch.callbacks.EarlyStopping  # stop\n"
        "- _target_: 'pytorch_lightning.loggers.CSVLogger'\n"
        "- class_path: pytorch_lightning.callbacks.Bogus\n"
        "- url: https://lightning.ai/docs, ./lightning.logs, my.lightning.pytorch\n"
    )
    after, said = migrate(text, ".yaml")
    assert after.splitlines()[:2] == [
        "- class_path: scaffold_runtime.callbacks.EarlyStopping  # stop",
        "- _target_: 'scaffold_runtime.loggers.CSVLogger'",
    ]
    assert after.splitlines()[2:] == text.splitlines()[2:]
    assert said == [(3, "there is no scaffold_runtime.callbacks.Bogus.")]


def test_each_class_path_of_a_line_is_changed() -> None:
    text = "callbacks: [{class_path: lightning.pytorch.a.Timer}, {class_path: pytorch_lightning.Trainer}]"
    after, said = migrate(f"{text}, pytorch_lightning.Trainer, pytorch_lightning.Gone\n", ".yaml")
    assert after.count("scaffold_runtime.Trainer") == 2 and "pytorch_lightning.Gone" in after
    assert [line for line, _ in said] == [1, 1]


def cell(source: Any, kind: str = "code") -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {}, "source": source}


def test_cells_of_notebooks() -> None:
    cells = [
        cell(["import lightning"], "markdown"),
        cell(["%matplotlib inline\n", "!pip install lightning\n", "import lightning as L\n"]),
        cell("%%bash\nimport lightning"),
        cell("L.Fabric()  # é"),
        cell("print('%s'\n% L)"),
        cell("L.Trainer?"),
    ]
    text = json.dumps({"cells": cells, "nbformat": 4}, indent=1, ensure_ascii=False)
    after, said = migrate(text, ".ipynb")
    assert after == text.replace("import lightning as L", "import scaffold_runtime as L")
    assert said == [
        (1, "cell 4: there is no scaffold_runtime.Fabric."),
        (1, "cell 6: cannot be read: invalid syntax"),
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_bytes(
        "# -*- coding: latin-1 -*-\r\nimport lightning as L  # é\r\nL.Trainer\r\n".encode("latin-1")
    )
    for skipped in (".hidden", "env"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "a.py").write_text("import lightning\n")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    return tmp_path


def test_nothing_is_written_without_being_told(project: Path, capsys) -> None:
    before = (project / "src" / "train.py").read_bytes()
    assert main(["."]) == 0
    assert (project / "src" / "train.py").read_bytes() == before
    printed = capsys.readouterr().out
    assert "+import scaffold_runtime as L" in printed
    assert "Files that --write would change: 1. Places to look at: 0." in printed


def test_encodings_and_line_ends_stay(project: Path, capsys) -> None:
    assert main([".", "--write"]) == 0
    after = (project / "src" / "train.py").read_bytes()
    assert after == (
        "# -*- coding: latin-1 -*-\r\nimport scaffold_runtime as L  # é\r\nL.Trainer\r\n"
    ).encode("latin-1")
    assert (project / "env" / "a.py").read_text() == "import lightning\n"
    capsys.readouterr()
    assert main([".", "--write"]) == 0
    assert "Files changed: 0." in capsys.readouterr().out


def test_files_that_are_no_code_are_said_and_left(project: Path, capsys) -> None:
    (project / "old.py").write_text("print 'x'\n")
    (project / "cut.ipynb").write_text('{"cells": [')
    (project / "early.ipynb").write_text('{"worksheets": []}')
    (project / "bytes.py").write_bytes(b"x = '\xff'\n")
    assert main(["."]) == 1
    printed = capsys.readouterr().out
    assert printed.count("cannot be read") == 4
    assert "Places to look at: 4." in printed


def test_a_place_that_is_not_there(project: Path) -> None:
    words = [sys.executable, "-m", "scaffold_runtime.migrate", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no nowhere." in done.stderr
