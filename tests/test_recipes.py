"""Each answer of docs/recipes.md is a program that runs."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
PARTS = re.findall(r"^#+ ([^\n]+)|^```python\n(.*?)^```", PAGE, re.M | re.S)
SHARED, *ANSWERS = [code for _, code in PARTS if code]
TITLES = [title for (title, _), (_, code) in pairwise(PARTS) if code][1:]


@pytest.mark.parametrize("answer", ANSWERS, ids=TITLES)
def test_an_answer_runs(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(SHARED + answer, "recipes.md", "exec"), {"__name__": "recipe"})
