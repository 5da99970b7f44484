"""The scripts of Lightning's "common workflows", written as its pages teach them, with the import changed.

Two of its pages have no script here: billions of parameters (`distributed/test_fsdp.py`) and notebooks
(`distributed/`), which need processes of their own.
"""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "workflows").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_workflow(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they warn where a person should look, which is no failure
        runpy.run_path(str(script), run_name="__main__")


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 29
