"""The notebook, executed as `jupyter nbconvert --execute` does it: on one process, then on two."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent.parent / "examples" / "notebook" / "digits.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the notebook client's own
def test_it_trains_on_one_process_and_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first training used several threads, after which forked processes can use only one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}})

    client.execute(env=dict(os.environ))

    printed = "".join(
        output["text"]
        for cell in book.cells
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
