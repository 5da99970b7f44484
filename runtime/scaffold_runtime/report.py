"""Write the report of a run, or compare several runs: `python -m scaffold_runtime.report RUN [RUN ...]`.

It is one self-contained HTML file: curves, pictures, configuration, environment, timings, checkpoints.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import platform
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from scaffold_runtime.errors import MisconfigurationException, hide_passwords, plain_errors, warn
from scaffold_runtime.extras import require
from scaffold_runtime.hooks import Callback
from scaffold_runtime.loggers.logger import flat

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

FACTS, REPORT = "run.json", "report.html"
STAGES = ("train", "val", "test")
NOT_SETTINGS = ("ckpt_path", "restore", "loggers.")  # where a run resumed, where it is logged
MOST_POINTS = 2000  # of one line: more than a chart has pixels, and quick to draw
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em 1em .2em 0; text-align: left; vertical-align: top }
tr + tr { border-top: 1px solid #ddd } pre { background: #f6f6f6; padding: 1em; overflow: auto }
img { max-width: 100%; max-height: 520px } figure { display: inline-block; margin: 0 1em 1em 0 }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)) }
"""
Points = np.ndarray[Any, np.dtype[np.float64]]
Curves = dict[str, tuple[Points, ...]]  # steps, values


class RunReport(Callback):
    """Write `report.html` into the run folder when training ends.

    Raises:
        MissingExtra: if plotly is not installed.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require("plotly", "plotly", "RunReport")
        self._commit = commit() if stage == "fit" and trainer.is_global_zero else {}
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def _spent_on(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spent_on("before training")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._spent_on("training")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._spent_on("validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spent_on("training")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the report last, since other callbacks may still draw pictures when training ends."""
        if stage != "fit" or not trainer.is_global_zero or not trainer.loggers:
            return
        try:
            self._write(trainer)
        except Exception as error:  # training is done, and the report can be written later
            warn(f"RunReport: {type(error).__name__}: {error}")

    def _write(self, trainer: Trainer) -> None:
        self._spent_on("after training")
        for logger in trainer.loggers:
            logger.attempt("save")
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "environment": environment(trainer) | self._commit,
            "seconds": {name: round(value, 2) for name, value in self._seconds.items()},
            "best": Path(getattr(trainer.checkpoint_callback, "best_model_path", "")).name,
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_report([folder], folder / REPORT)


def environment(trainer: Trainer) -> dict[str, str]:
    """Versions, device, precision and command of the run."""
    device = trainer.strategy.root_device
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": f"{trainer.world_size} x {device.type}{gpu}",
        "precision": trainer.precision,
        "command": hide_passwords(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def commit() -> dict[str, str]:
    """The commit of the project's repository, with "-dirty" if files differ from it; empty without a repository."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"]
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=10)
        found = said.stdout.strip()
        return {"commit": found} if found else {}
    return {}


class RunFolder:
    """The files in the folder of a run.

    Raises:
        MisconfigurationException: if it is not the folder of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.resolve().name
        if not any((folder / name).exists() for name in ("config.yaml", "metrics.csv", FACTS)):
            raise MisconfigurationException(
                f"{folder} is not the folder of a run: it has neither config.yaml nor metrics.csv."
            )
        self.config = self.parsed("config.yaml", yaml.safe_load)
        self.facts = self.parsed(FACTS, json.loads)
        self.curves = read_curves(folder / "metrics.csv")
        self.pictures = sorted(folder.glob("pictures/*.png"))
        self.checkpoints = sorted(folder.glob("checkpoints/*"))

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def parsed(self, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
        try:
            found = parse(self.text(name) or "{}")
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            warn(f"{self.folder / name} is left out, as it cannot be read: {reason}")
            return {}
        return found if isinstance(found, dict) else {}


def settings_of(run: RunFolder) -> dict[str, str]:
    """The settings of a run, by their names on the command line, without those that contain the run's own folder."""
    whole = (run.folder / "config.yaml").exists()  # hyperparameters have other names
    found = flat(run.config if whole else run.parsed("hparams.yaml", yaml.safe_load), ".")
    named = {re.sub(r"\.(init_args|class_path)\b", "", name): str(v) for name, v in found.items()}
    named["commit"] = run.facts.get("environment", {}).get("commit", "")
    own = run.folder.as_posix()
    return {n: v for n, v in named.items() if not n.startswith(NOT_SETTINGS) and own not in v}


def differing(runs: list[RunFolder]) -> dict[str, list[str]]:
    """The settings that differ between runs, each with one value per run, empty where it is not known."""
    settings = [settings_of(run) for run in runs]
    known = [each for each in settings if each.keys() != {"commit"}]
    names = {name for each in known for name in each}
    differ = [name for name in names if len({each.get(name, "") for each in known}) > 1]
    differ.sort(key=lambda name: (name.startswith("callbacks."), name))
    return {name: [each.get(name, "") for each in settings] for name in differ}


def read_curves(path: Path) -> Curves:
    """Steps and values of each metric, without values that are no numbers and without an incomplete last row."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(line for line in file if line.endswith("\n"))
        header = next(rows, [])
        at = {name: place for place, name in enumerate(header)}
        step_at = at.pop("step", -1)
        at.pop("epoch", None)
        # Arrays of numbers, not lists of tuples, a million of which would slow down the garbage collector.
        lines = {place: (array("d"), array("d")) for place in at.values()}
        for row in rows:
            if len(row) != len(header):
                continue
            step = row[step_at] or "nan" if step_at >= 0 else "nan"
            for place, (steps, values) in lines.items():
                if row[place]:
                    with suppress(ValueError):  # it is no number
                        point = float(step), float(row[place])
                        steps.append(point[0])
                        values.append(point[1])
    found = {name: lines[place] for name, place in at.items() if lines[place][1]}
    return {name: tuple(map(np.array, points)) for name, points in found.items()}


def thinned(steps: Points, values: Points) -> tuple[Points, Points, int]:
    """The lowest and the highest of every N points, if there are too many to see, and N."""
    every = -(-2 * len(values) // MOST_POINTS)
    if every <= 2:
        return steps, values, 1
    rows = np.full((-(-len(values) // every), every), np.nan)
    rows.flat[: len(values)] = values
    lowest = np.where(np.isnan(rows), np.inf, rows).argmin(axis=1)
    highest = np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    begins = np.arange(len(rows)) * every
    kept = np.unique([begins + lowest, begins + highest])
    return steps[kept], values[kept], every


def panel_of(name: str) -> str:
    """The panel of a metric, shared by stages: `train_loss` and `val_loss` are in `loss`."""
    stage, _, rest = name.partition("_")
    return rest.removesuffix("_epoch").removesuffix("_step") if stage in STAGES and rest else name


def charts(runs: list[RunFolder]) -> str:
    """One chart per panel; the first includes the script that draws them all."""
    panels: dict[str, list[str]] = {}
    for name in sorted({name for run in runs for name in run.curves}):
        panels.setdefault(panel_of(name), []).append(name)
    drawn = [
        chart(panel, panels[panel], runs).to_html(
            full_html=False,
            include_plotlyjs=number == 0,
            config={"responsive": True, "displayModeBar": False},
        )
        for number, panel in enumerate(sorted(panels))
    ]
    return f'<div class="curves">{"".join(drawn)}</div>'


def chart(panel: str, names: list[str], runs: list[RunFolder]) -> Any:
    """One line per run and stage; at the mouse, the values of all lines are shown."""
    from plotly.colors import qualitative
    from plotly.graph_objects import Figure

    made, several = Figure(), len(runs) > 1
    for number, run in enumerate(runs):
        for place, name in enumerate(names):
            if name not in run.curves:
                continue
            steps, values, every = thinned(*run.curves[name])
            label = escape(f"{run.name} {name}" if several else name)
            label += f" (lowest and highest of every {every})" * (every > 1)
            colour = qualitative.D3[(number if several else place) % len(qualitative.D3)]
            dash = "dot" if several and name.startswith("train") else "solid"
            mode = "lines+markers" if len(values) < 50 else "lines"
            line = {"color": colour, "dash": dash}
            made.add_scatter(x=steps, y=values, name=label, mode=mode, line=line)
    made.update_xaxes(title_text="step")
    return made.update_layout(
        title=escape(panel),
        height=320 + 12 * len(made.data),
        template="plotly_white",
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "y": -0.25},
        margin={"t": 40, "l": 50, "r": 20, "b": 20},
    )


def table(rows: list[tuple[Any, ...]], head: tuple[Any, ...] = ()) -> str:
    def cells(row: tuple[Any, ...], tag: str) -> str:
        return "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row)

    lines = [cells(head, "th")] if head else []
    lines += [cells(row, "td") for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def metrics_table(runs: list[RunFolder]) -> str:
    """The last, lowest and highest value of each metric, per run."""
    found = [
        (run.name, name, values[-1], np.fmin.reduce(values), np.fmax.reduce(values))
        for run in runs
        for name, (_, values) in sorted(run.curves.items())
    ]
    rows = [(*row[:2], *(f"{value:.4g}" for value in row[2:])) for row in found]
    return table(rows, ("run", "metric", "last", "lowest", "highest"))


def of_one_run(run: RunFolder) -> str:
    """The part of the report about one run, besides its curves."""
    parts = []
    for picture in run.pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        caption = escape(picture.stem)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    if samples := run.text("samples.txt"):
        parts.append(f"<h3>Samples</h3><pre>{escape(samples[-2000:])}</pre>")
    for title in ("seconds", "environment"):
        if rows := list(run.facts.get(title, {}).items()):
            parts.append(f"<h3>{title.capitalize()}</h3>{table(rows)}")
    files, best = [p for p in run.checkpoints if p.is_file()], run.facts.get("best")
    kept = [(p.name, f"{p.stat().st_size / 1e6:.1f} MB", "best" * (p.name == best)) for p in files]
    if kept:
        parts.append(f"<h3>Checkpoints</h3>{table(kept)}")
    config = escape(run.text("config.yaml"))
    parts.append(f"<details><summary>Configuration</summary><pre>{config}</pre></details>")
    return "\n".join(parts)


def write_report(folders: list[Path], path: Path) -> Path:
    """Write one page about one run, or comparing several.

    Raises:
        MissingExtra: if plotly is not installed.
        MisconfigurationException: if a folder is not that of a run.
    """
    require("plotly", "plotly", "a report")
    runs = [RunFolder(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        for run in runs:
            run.name = str(run.folder)
    title = escape(", ".join(run.name for run in runs))
    nothing = "<p>No numbers in a metrics.csv: switch on the CSV logger to see curves.</p>"
    curves = charts(runs) if any(run.curves for run in runs) else nothing
    parts = [f"<h1>{title}</h1>", curves, metrics_table(runs)]
    if len(runs) > 1:
        rows = [(name, *column) for name, column in differing(runs).items()]
        parts.append(f"<h2>What differs</h2>{table(rows, ('', *(run.name for run in runs)))}")
    for run in runs:
        parts += [f"<h2>{escape(run.name)}</h2>"] * (len(runs) > 1) + [of_one_run(run)]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    page = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>\n"
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scaffold_runtime.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, such as runs/version_0")
    where = "the page; report.html in the run, or beside it for several"
    parser.add_argument("--output", type=Path, help=where)
    given = parser.parse_args(words)
    first = given.runs[0]
    usual = (first if len(given.runs) == 1 else first.parent) / REPORT
    with plain_errors():
        sys.stdout.write(f"{write_report(given.runs, given.output or usual)}\n")


if __name__ == "__main__":
    main()
