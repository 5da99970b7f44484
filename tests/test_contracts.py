"""Promises about the code itself: who imports what, which names are public, what the wheels hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import scaffold_runtime

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime" / "scaffold_runtime"
# Third-party packages that only the files of their name may import.
HOMES = {
    "mlflow": {"loggers/mlflow.py"},
    "tensorboard": {"loggers/tensorboard.py"},
    "wandb": {"loggers/wandb.py"},
}
PUBLIC = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"]


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("file", sorted(RUNTIME.rglob("*.py")), ids=lambda f: f.stem)
def test_foreign_packages_stay_in_the_file_of_their_name(file: Path) -> None:
    """torch.distributed is for strategies; a third-party package for the file that bears its name."""
    names = imported(file)
    place = file.relative_to(RUNTIME).as_posix()

    if not place.startswith("strategies/"):
        assert not [name for name in names if name.startswith("torch.distributed")]
    for package, homes in HOMES.items():
        used = [name for name in names if name.split(".")[0] == package]
        assert not used or place in homes


NO_FILES = {
    "os",
    "tokenize",
    "Image",
    "self",
    "trainer",
    "trial",
    "strategy",
    "_watcher",
    "part",
    "parts",
}
CODE = [
    *(
        file
        for folder in (RUNTIME, ROOT / "scaffold", ROOT / "tools")
        for file in folder.rglob("*.py")
    ),
    *(ROOT / "templates").rglob("*.py.jinja"),
]


def without_encoding(text: str) -> Iterator[str]:
    """Calls that read or write text in the default encoding of the machine."""
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call) or "encoding" in {word.arg for word in call.keywords}:
            continue
        *owner, name = re.findall(r"\w+", re.sub(r"\(.*?\)|\[.*?\]", "", ast.unparse(call.func)))
        modes = [*call.args[not owner :][:1], *(w.value for w in call.keywords if w.arg == "mode")]
        binary = any("b" in str(getattr(mode, "value", "")) for mode in modes)
        opens = name in ("open", "fdopen") and not binary and not NO_FILES.intersection(owner[-1:])
        piped = {"text", "universal_newlines"}.intersection(str(word.arg) for word in call.keywords)
        if opens or name in ("read_text", "write_text") or (name in ("run", "Popen") and piped):
            yield ast.unparse(call)


def test_files_are_utf8_whatever_the_machine_has() -> None:
    """The default encoding of Windows is not UTF-8."""
    found = {
        str(file.relative_to(ROOT)): [*without_encoding(file.read_text("utf-8"))] for file in CODE
    }

    assert {file: calls for file, calls in found.items() if calls} == {}
    calls = "open(a)", "p.open()", "(a / 'b').open('a')", "p.read_text()", "run(w, text=True)"
    assert all(list(without_encoding(call)) == [call] for call in calls)


def test_public_names_are_the_ones_promised() -> None:
    """A name is only added or removed on purpose: here and in the changelog."""
    assert sorted(scaffold_runtime.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(scaffold_runtime, name).__doc__


def test_importing_the_runtime_imports_nothing_heavy() -> None:
    """`import scaffold_runtime` costs nothing: not even torch is imported before a name is used."""
    code = (
        "import sys, scaffold_runtime;"
        "print([m for m in ('torch', 'numpy', 'jsonargparse', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert out.stdout.strip() == "[]", out.stderr


def test_the_two_packages_do_without_each_other(tmp_path: Path) -> None:
    """The runtime trains where the scaffolder's libraries are missing; the scaffolder starts without torch."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in BLOCKED: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    runtime = (
        "BLOCKED = {'typer', 'copier', 'jinja2', 'black', 'scaffold'}\n" + block + "import torch\n"
        "from scaffold_runtime import LightningModule, Trainer\n"
        "from scaffold_runtime.cli import run\n"
        "import scaffold_runtime.callbacks.model_checkpoint\n"
    )
    scaffolder = "BLOCKED = {'torch', 'scaffold_runtime', 'jsonargparse'}\n" + block
    scaffolder += "from scaffold.cli import main\nsys.argv = ['scaffold', '--version']\nmain()\n"
    for code in (runtime, scaffolder):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_runtime_wheel_is_whole(tmp_path: Path) -> None:
    """Every module and py.typed are in the wheel, and nothing else."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(
        [*build, str(ROOT / "runtime")],
        check=True,
        capture_output=True,
        env=os.environ,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("scaffold_runtime-*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    written = {
        f"scaffold_runtime/{file.relative_to(RUNTIME).as_posix()}"
        for file in RUNTIME.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    assert packed == written
    assert "scaffold_runtime/py.typed" in packed
