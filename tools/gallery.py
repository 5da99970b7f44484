"""Train every task as a user would, and write docs/gallery.md from what came out: `python tools/gallery.py`.

Takes some minutes. `python tools/gallery.py TASK ...` trains these alone and keeps the numbers of the others.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scaffold.catalogue import Part, packaged

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "gallery" / "results.json"
SWITCHES = {
    "blank": "your data",
    "diffusion": "`--data.source mnist --data.path DIR --model.size 28`",
    "finetune": "`--model.backbone torchvision/resnet18`",
    "generative-adversarial": "`--data.source mnist --data.path DIR --model.size 28`",
    "image-classification": "`--data.source mnist --data.path DIR`; cifar10, folder",
    "image-segmentation": "`--data.source DIR` with images/ and masks/",
    "language-model": "`--data.source DIR` with text",
    "reinforcement-learning": "`--data.environment CartPole-v1` with gymnasium",
    "self-supervised": "`--data.source cifar10 --data.path DIR --model.channels 3`",
    "tabular": "`--data.source FILE.csv --data.target COLUMN`; .parquet",
    "text-classification": "`--data.source FILE.csv` with text,label",
    "time-series": "`--data.source FILE.csv --data.column NAME`",
}


def train(task: Part) -> dict[str, object]:
    """Render a project, train it, and say how good it became in how many seconds."""
    with tempfile.TemporaryDirectory() as place:
        new = ["new", "my-exp", "--task", task.name, "--defaults", "--no-git"]
        subprocess.run([sys.executable, "-m", "scaffold", *new], cwd=place, check=True)
        project, began = Path(place, "my-exp"), time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=project,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - began
        run = project / "runs" / "version_0"
        with (run / "metrics.csv").open() as file:
            values = [float(row[task.monitor]) for row in csv.DictReader(file) if row[task.monitor]]
        compared = [
            line for line in done.stdout.splitlines() if re.match(r"val_\w+ [\d.]+, ", line)
        ]
        for picture in sorted(run.glob("pictures/*.png")):
            shutil.copy(picture, DOCS / "gallery" / f"{task.name}.png")
    best = max(values) if task.mode == "max" else min(values)
    said = compared[0].split(", ", 1)[1] if compared else ""
    return {"best": f"{task.monitor} {best:.3f}", "beside": said, "seconds": round(seconds)}


def page(results: dict[str, dict[str, object]]) -> str:
    lines = [
        "# Gallery",
        "",
        "`scaffold new NAME --task TASK`. Each task trains on data that need no download. The numbers are of",
        "one training with the default configuration, the best validation of the run, on two shared CPU cores",
        "with one thread and other work beside it, which the seconds show; beside them,",
        "what stands in its place without this model. `python tools/gallery.py` makes this page.",
        "",
        "| task | what | reached | beside it | seconds | other data |",
        "|---|---|---|---|---|---|",
    ]
    tasks = packaged().tasks
    for name, result in results.items():
        cells = (result["best"], result["beside"] or "-", result["seconds"], SWITCHES.get(name, ""))
        shown = " | ".join(map(str, cells))
        lines.append(f"| {name} | {tasks[name].description} | {shown} |")
    for name in results:
        if (DOCS / "gallery" / f"{name}.png").exists():
            lines += ["", f"## {name}", "", f"![{name}](gallery/{name}.png)"]
    return "\n".join(lines) + "\n"


def main() -> None:
    tasks = packaged().tasks
    RESULTS.parent.mkdir(exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or tasks:
        results[name] = train(tasks[name])
        print(name, *results[name].values(), sep="  ", flush=True)
        results = {name: results[name] for name in sorted(results)}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        (DOCS / "gallery.md").write_text(page(results))


if __name__ == "__main__":
    main()
