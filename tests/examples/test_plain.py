"""The runtime works without the scaffolder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "plain" / "plain.py"


@pytest.mark.slow
def test_a_plain_script_trains(tmp_path: Path) -> None:
    """It reaches a stated accuracy, in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(float, re.findall(r"val_acc\D+([\d.]+)", done.stdout))) > 0.95
