"""Fixtures for the tests of all tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "blank" / "pyproject.toml"
QUICK = {  # by task: smaller samples, as training two batches takes less time than drawing them
    "diffusion": ["--model.steps=5", "--callbacks.sample_score.count=64"],
    "generative-adversarial": ["--callbacks.sample_score.count=64"],
    "language-model": ["--callbacks.samples.length=20"],
    "llm-finetuning": ["--callbacks.samples.new_tokens=5"],
}
NOT_FOLLOWED = """
[[tool.mypy.overrides]]
module = ["mlflow.*", "onnx.*", "wandb.*"]
follow_imports = "skip"
"""


@pytest.fixture(scope="session")
def quick() -> dict[str, list[str]]:
    """By task: options that make its samples small."""
    return QUICK


@pytest.fixture(scope="session")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """mypy as strict as it can be, as a project sets it up. It reads torch once for all folders, not twenty seconds in
    each, which takes the same settings in all of them; and libraries of loggers never."""
    place = tmp_path_factory.mktemp("mypy")
    config = place / "pyproject.toml"

    def check(folder: Path) -> str:
        own = folder / "pyproject.toml"
        config.write_text((own if own.exists() else EXAMPLE).read_text() + NOT_FOLLOWED)
        words = ["mypy", "--strict", f"--cache-dir={place}", f"--config-file={config}", "."]
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return done.stdout + done.stderr

    return check
