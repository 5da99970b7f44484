"""The notebook, executed headless as a user would: on one process, then on two."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "notebook" / "digits.ipynb"


@pytest.mark.slow
def test_it_trains_on_one_process_and_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first training used several threads, after which forked processes can use only one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = shutil.copy(NOTEBOOK, tmp_path)
    jupyter = Path(sys.executable).with_name("jupyter")

    ran = subprocess.run(
        [jupyter, "nbconvert", "--to", "notebook", "--execute", "--inplace", book],
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    printed = "".join(
        "".join(output["text"])
        for cell in json.loads(Path(book).read_text())["cells"]
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    steps, accuracies = zip(
        *re.findall(r"process(?:es)?: (\d+) steps, accuracy ([\d.]+)", printed), strict=True
    )
    assert steps == ("235", "120")  # half as many batches for each of two
    assert all(float(accuracy) > 0.85 for accuracy in accuracies)
    assert int(re.findall(r"(\d+) of 297 are right", printed)[0]) > 0.85 * 297
    assert "the same weights: True" in printed
