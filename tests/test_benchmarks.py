"""The benchmarks run and print their table; what they measure is never asserted."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for path in BENCHMARKS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_row_takes_ratios_within_a_round(load: Any) -> None:
    table = load("table")
    turns = iter(range(100))

    def figure(cost: float) -> Any:
        def contestant() -> float:
            round_ = next(turns) // 2
            return cost * round_ if round_ else 1e9  # slower each round, for everybody; 0 warms up

        return contestant

    row = table.Row("x", "name", 1.5, "µs", {"base": figure(1e-4), "ours": figure(2e-4)}, rounds=5)
    table.measure([row], lambda text: None)
    assert row.ratios("ours") == [2.0] * 5
    assert row.reached().endswith("missed")
    assert row.ratio("Lightning") == ""


def test_peers_have_columns_where_they_took_part(load: Any) -> None:
    table = load("table")
    one = table.Row("one", "one", 1.0, "s", {"base": lambda: 2.0, "ours": lambda: 1.0}, rounds=3)
    table.measure([one], lambda text: None)
    assert table.markdown([one]).splitlines() == [
        "| row | base | goal | reached |",
        "|---|---|---|---|",
        "| one | 2.00 s | 1.00 | 0.50 (0.50 to 0.50) |",
    ]


def test_pages_keep_what_stands_around_the_table(load: Any, tmp_path: Path, monkeypatch: Any) -> None:  # fmt: skip
    bench, table = load("bench"), load("table")
    for name in bench.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
        assert bench.BEGIN in (BENCHMARKS.parent / name).read_text()  # the real page has the marks
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    row = table.Row("off", "quick", None, "s", {"base": lambda: 1.0, "ours": lambda: 1.0}, rounds=1)
    table.measure([row], lambda text: None)
    bench.write([row])
    for name in bench.PAGES:
        text = (tmp_path / name).read_text()
        assert text.startswith("before\n") and text.endswith("after\n")
        assert "| quick | 1.00 s |  | 1.00 |" in text and "old" not in text


def test_rows_measured_one_by_one_are_merged(load: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The pages show the rows of all runs, each with its date and machine, after an interruption too."""
    bench, table = load("bench"), load("table")
    for name in (*bench.PAGES, bench.MEASURED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{bench.BEGIN}\n{bench.END}\n")
    (tmp_path / bench.MEASURED).unlink()
    monkeypatch.setattr(bench, "ROOT", tmp_path)

    def row(key: str, **figures: list[float]) -> Any:
        turns = {"base": lambda: 1.0, "ours": lambda: 2.0}
        return table.Row(key, f"row {key}", 1.0, "s", turns, figures=figures, by=f"day of {key}")

    bench.keep(row("off", base=[1.0], ours=[1.5]))
    bench.keep(row("new", base=[2.0], ours=[5.0]))
    bench.keep(row("off", base=[4.0], ours=[5.0]))  # measured again
    rows = [row("off"), row("add"), row("new")]
    bench.recall(rows)
    bench.write(rows)
    text = (tmp_path / "docs/benchmarks.md").read_text()
    assert "day of off, `make bench`: `off`." in text and "day of new, `make bench`: `new`." in text
    assert "| row off | 4.00 s | 1.00 | 1.25 |\n| row new | 2.00 s | 1.00 | 2.50 |" in text
    assert "row add" not in text and "row new" not in (tmp_path / "README.md").read_text()


def test_rows_that_read_the_same_work_do_it_once_a_turn(load: Any) -> None:
    worked: list[int] = []
    reader = load("table").in_turn(lambda: worked.append(len(worked)) or len(worked))
    one, other = reader(), reader()
    assert [one(), one(), other(), other(), other(), one()] == [1, 2, 1, 2, 3, 3]
    assert len(worked) == 3


def test_every_row_has_its_own_key_and_a_base(load: Any) -> None:
    rows = load("bench").every_row()
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    assert all({"base", "ours"} <= set(row.contestants) for row in rows)
    shown = {key for keys in load("bench").PAGES.values() for key in keys}
    assert shown <= set(keys)


def test_a_row_is_a_command() -> None:
    done = run("bench.py", "callbacks", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "| tiny MLP, 16 idle callbacks" in done.stdout


def test_an_unknown_row_is_named() -> None:
    done = run("bench.py", "nothing")
    assert done.returncode == 1
    assert "no row nothing" in done.stderr and "off" in done.stderr


def test_the_gpu_script_runs() -> None:
    """All rows, on the CPU; the check for waiting needs a GPU."""
    done = run("gpu.py", "--device", "cpu", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds") == 3
    for row in ("small model, 32-true", "large model, 16-mixed", "loader-bound"):
        assert f"| {row}" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_script_says_that_there_is_none() -> None:
    done = run("gpu.py")
    assert done.returncode == 2
    assert "There is no GPU here" in done.stdout


def test_where_the_time_goes() -> None:
    done = run("where.py", "off")
    assert done.returncode == 0, done.stderr
    for words in ("| data and zero |", "the engine takes", "| run.py: commit | 1.00 |"):
        assert words in done.stdout
    done = run("where.py", "import")
    assert "| torch | " in done.stdout, done.stderr
