"""List all runs below a folder, the best first: `python -m scaffold_runtime.runs [FOLDER] [--by METRIC] [--csv]`.

Each row has the best monitored value of a run, its other metrics at that step, and the settings that differ from those
of most runs.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from scaffold_runtime.columns import aligned
from scaffold_runtime.errors import MisconfigurationException, did_you_mean, plain_errors
from scaffold_runtime.report import FACTS, RunFolder, differing

FILES = ("config.yaml", "metrics.csv", FACTS)
ORDERS = {"min": "lowest", "max": "highest"}


def runs_below(folder: Path) -> list[RunFolder]:
    """The runs below `folder`, including folds and trials, named by their path in it; the one written last comes last.

    Raises:
        MisconfigurationException: if there is none.
    """
    found = {path.parent for name in FILES for path in folder.rglob(name)}
    places = [place for place in found if not place.name.startswith(".")]  # made by other tools
    if not places:
        raise MisconfigurationException(
            f"{folder} contains no run, that is, no folder with a config.yaml or a metrics.csv. "
            "Name the folder that your runs are in."
        )
    runs = sorted(map(RunFolder, places), key=written)
    for run in runs:
        run.name = run.folder.relative_to(folder).as_posix()
    return runs


def written(run: RunFolder) -> float:
    """When the run's files were last written, in seconds."""
    files = [run.folder / name for name in FILES]
    return max(file.stat().st_mtime for file in files if file.exists())


def callbacks_of(config: dict[str, Any]) -> list[Any]:
    """The callbacks in a project's config, by name, or in LightningCLI's, a list; none in other files of that name."""
    named, trainer = config.get("callbacks"), config.get("trainer")
    if isinstance(named, dict):
        return [*named.values()]
    listed = trainer.get("callbacks") if isinstance(trainer, dict) else None
    return listed if isinstance(listed, list) else []


def monitor_of(runs: list[RunFolder]) -> tuple[str | None, str]:
    """The metric that selects checkpoints in most runs, and whether its "min" or "max" is best."""
    options = [
        callback.get("init_args") or {}
        for run in runs
        for callback in callbacks_of(run.config)
        if isinstance(callback, dict) and "Checkpoint" in callback.get("class_path", "")
    ]
    monitors = Counter((o["monitor"], o.get("mode", "min")) for o in options if o.get("monitor"))
    return monitors.most_common(1)[0][0] if monitors else (None, "min")


def metrics_of(run: RunFolder, by: str | None, mode: str) -> dict[str, float]:
    """The value of each metric when `by` was best; the last value of test metrics, and if `by` was not logged."""
    at = np.inf
    if by in run.curves:
        steps, values = run.curves[by]
        at = steps[np.argmin(np.nan_to_num(values if mode == "min" else -values, nan=np.inf))]
    seen = {
        name: values if name.startswith("test") else values[~(steps > at)]
        for name, (steps, values) in sorted(run.curves.items())
    }
    return {name: float(values[-1]) for name, values in seen.items() if len(values)}


def steps_of(run: RunFolder) -> int:
    """Number of training steps, as far as they were logged; 0 if it only validated or tested a checkpoint."""
    last = [steps[-1] for name, (steps, _) in run.curves.items() if not name.startswith("test")]
    return int(max(last, default=0) + 1) if any(last) else 0


def unlike(own: dict[str, str], usual: dict[str, str]) -> str:
    """The settings that differ from the usual ones; of an unusual callback only its name, without its arguments."""
    rare = {name: value for name, value in own.items() if value not in ("", usual[name])}
    options = tuple(f"{name}." for name in rare if name.startswith("callbacks."))
    return "  ".join(f"{n}={v}" for n, v in rare.items() if usual[n] or not n.startswith(options))


def table(runs: list[RunFolder], by: str | None, mode: str, everything: bool) -> list[list[str]]:
    """A header and a row for each run, sorted by `by`, the best first, or by time; those that did not train come last.

    With `everything` it has all metrics, and each setting that differs; without, those of validation and tests, and the
    settings in which a run differs from most others.
    """
    metrics = {run.name: metrics_of(run, by, mode) for run in runs}
    if by is not None:
        sign = 1 if mode == "min" else -1
        worth = {name: sign * found.get(by, np.nan) for name, found in metrics.items()}
        runs = sorted(runs, key=lambda run: float(np.nan_to_num(worth[run.name], nan=np.inf)))
    runs = sorted(runs, key=lambda run: not steps_of(run))
    known = {name for found in metrics.values() for name in found}
    names = sorted(known, key=lambda name: (name != by, name.startswith("test"), name))
    if not everything:
        names = [n for n in names if n == by or n.startswith(("val", "test"))] or names
    settings = differing(runs)
    compared = sum(steps_of(run) > 0 for run in runs) or len(runs)  # the first ones
    usual = {n: Counter(column[:compared]).most_common(1)[0][0] for n, column in settings.items()}
    form = repr if everything else "{:.4g}".format
    rows = [["run", "written", "steps", *names, *(settings if everything else ["unlike most"])]]
    for place, run in enumerate(runs):
        own = {name: column[place] for name, column in settings.items()}
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(written(run)))
        values = [form(metrics[run.name][n]) if n in metrics[run.name] else "" for n in names]
        last = own.values() if everything else [unlike(own, usual) if place < compared else ""]
        rows.append([run.name, when, str(steps_of(run) or ""), *values, *last])
    return rows


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scaffold_runtime.runs", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", default="runs", type=Path, help="the folder of runs; runs/ by default"
    )
    parser.add_argument("--by", help="the metric to sort by; by default the monitored one")
    parser.add_argument("--mode", choices=ORDERS, help="whether its lowest or its highest is best")
    parser.add_argument("--csv", action="store_true", help="print all metrics and settings as CSV")
    given = parser.parse_args(words)
    with plain_errors():
        runs = runs_below(given.folder)
        monitor, mode = monitor_of(runs)
        by = given.by or monitor
        known = {name for run in runs for name in run.curves}
        if given.by and given.by not in known:
            raise MisconfigurationException(
                f"--by {given.by}: no run in {given.folder} logged it.{did_you_mean(given.by, known)} "
                f"Logged: {', '.join(sorted(known)) or 'nothing'}."
            )
        mode = given.mode or (mode if by == monitor else "min")
        rows = table(runs, by, mode, given.csv)
        if given.csv:
            csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
            return
        right = [False, False, *[True] * (len(rows[0]) - 3), False]
        sys.stdout.write("\n".join(aligned(rows, right)) + "\n")
        if by in known:
            sys.stdout.write(
                f"{by} is the {ORDERS[mode]} of each run; the other values are from that step.\n"
            )


if __name__ == "__main__":
    main()
