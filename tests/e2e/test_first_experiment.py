"""docs/first-experiment.md, typed and edited from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first-experiment.md"
BLOCKS = re.findall(r"^```(console|diff)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_page_holds(tmp_path: Path) -> None:
    """Each command ends with 0 and prints the lines below it, numbers aside."""
    bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": bin_first, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    folder = tmp_path

    def shell(command: str, given: str = "") -> str:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, input=given, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        return done.stdout

    for kind, block in BLOCKS:
        if kind == "diff":
            shell("git apply --recount -", block)
            continue
        for command, shown in re.findall(r"^\$ ([^\n]+)\n((?:(?!\$ )[^\n]*\n)*)", block, re.M):
            if command.startswith("cd "):
                folder /= command[3:]
                continue
            printed = shell(command)
            for line in shown.splitlines():
                assert re.split(r"\d", line)[0] in printed, f"$ {command}\n{printed}"
