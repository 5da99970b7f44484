"""Generated pages are up to date, and every public name is documented."""

from __future__ import annotations

import importlib.util
import inspect
import pydoc
import re
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
# What people import from, besides `scaffold_runtime` itself; other modules are ours to change.
MODULES = (
    "accelerators", "callbacks", "callbacks.progress", "callbacks.progress.rich_progress", "cli", "core",
    "core.optimizer", "demos", "demos.boring_classes", "errors", "loggers", "plugins", "plugins.environments",
    "plugins.io", "plugins.precision", "precision", "profilers", "strategies", "trainer", "trainer.states", "tuner",
    "utilities", "utilities.model_summary", "utilities.rank_zero", "utilities.seed", "utilities.types",
)  # fmt: skip


def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    """`make docs` wrote them from the code as it is."""
    for path, text in pages().pages().items():
        assert path.read_text() == text, f"{path.name} is old: run `make docs`"


def test_every_make_target_is_explained() -> None:
    """CONTRIBUTING names what `make help` lists."""
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(targets) > 10
    assert not set(targets) - set(explained)


def test_every_module_stands_in_the_design() -> None:
    """Its name is in the table of layers."""
    table = (ROOT / "docs" / "design.md").read_text().partition("| layer |")[2].partition("\n\n")[0]
    named = {name.rpartition("/")[2] for name in re.findall(r"`([a-z_/]+)`", table)}
    runtime = ROOT / "runtime" / "scaffold_runtime"
    files = [
        *runtime.glob("*.py"),
        *(f for p in ("loops", "checkpoint", "trainer") for f in (runtime / p).glob("*.py")),
    ]
    modules = {file.stem for file in files if not file.stem.startswith("__")}
    folders = {folder.parent.name for folder in runtime.glob("*/__init__.py")}
    assert modules | folders - {"loops", "checkpoint"} == named


def exported() -> dict[str, Any]:
    """Every public class and function, with the module that defines it."""
    found = {}
    for name in ("", *MODULES):
        module = importlib.import_module(f"scaffold_runtime.{name}".rstrip("."))
        for thing in (getattr(module, public) for public in pages().exported(module)):
            if getattr(thing, "__module__", "").startswith("scaffold_runtime"):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def test_every_public_name_is_in_the_reference() -> None:
    sources = [source for _, listed in pages().REFERENCE.values() for source in listed]
    shown = {path for source in sources for path in pages().public_objects(source)}
    assert len(shown) > 100
    assert all(map(pydoc.locate, shown))  # what is gone is not in the reference
    assert not set(exported()) - shown


def test_every_public_name_has_a_docstring() -> None:
    """And its public methods and properties have one, or override one that has."""
    bare = []
    for path, thing in exported().items():
        bare += [path] if not thing.__doc__ else []
        for name, member in vars(thing).items() if inspect.isclass(thing) else ():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            own = inspect.isfunction(function) and not name.startswith("_")
            bare += [f"{path}.{name}"] if own and not inspect.getdoc(getattr(thing, name)) else []
    assert not bare
