"""The pages that follow from the code are current, and every public name is documented."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("callbacks", "loggers", "profilers", "strategies", "cli", "accelerators", "precision")


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


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """What a module exports says what it is for, its public methods too."""
    module = importlib.import_module(f"scaffold_runtime.{name}")
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"
