"""Problems of the environment or the project, each with its fix.

The project's Python is examined in another process, since the scaffolder itself never imports torch.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scaffold.answers import numbers, way_out
from scaffold.catalogue import Catalogue
from scaffold.errors import ScaffoldError
from scaffold.files import Disk, File
from scaffold.git import out_of_place
from scaffold.journal import WORK
from scaffold.merge import mistake, parses
from scaffold.names import one_line
from scaffold.package import is_gone
from scaffold.project import Project, check_plain, open_project
from scaffold.runtime import requirements

OLDEST_PYTHON, OLDEST_TORCH, LEAST_DISK = (3, 10), (2, 9), 2**30
PROBE = """
import importlib.util, json, sys
found = {"python": list(sys.version_info[:3]), "missing": []}
for name in sys.argv[1:]:
    if importlib.util.find_spec(name) is None:
        found["missing"].append(name)
try:
    import torch
    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
    found["devices"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
except Exception as error:
    found["torch_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
try:
    import scaffold_runtime
    found["runtime"] = scaffold_runtime.__version__
    from scaffold_runtime.strategies import STRATEGIES
    found["strategies"] = list(STRATEGIES)
except Exception as error:
    found["runtime_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    level: Literal["ok", "note", "fix"]
    what: str
    fix: str = ""


def to_fix(what: str, how: str) -> Finding:
    return Finding("fix", what, how)


def examine(root: Path, catalogue: Catalogue) -> list[Finding]:
    try:
        check_plain(root)
        project = open_project(root)
        lost = project.answers.lost(catalogue)
        for kind, name in lost:
            answers = project.answers.without_feature(kind, name)
            project = replace(project, answers=answers)
        modules = optional(project, catalogue)
    except ScaffoldError as error:
        what, _, fix = str(error).partition("\n")
        return [to_fix(what, fix)]
    ours = not project.answers.template  # what a team's own template needs is unknown
    python = interpreter(root)
    probe = ask(python, modules, root)
    return [
        *of_lost(lost),
        *of_python(python, probe),
        *(of_torch(probe) if ours or "torch" in probe else ()),
        *(of_runtime(project, probe) if ours or "runtime" in probe else ()),
        *of_strategy(project, probe),
        *of_packages(project, catalogue, probe),
        *of_project(project, catalogue),
        *of_files(project, probe),
        *of_configs(python, root, probe),
        *of_disk(root),
    ]


def interpreter(root: Path) -> str:
    """The Python that trains: from a .venv in the project or in its repository, else from the PATH."""
    above = [root, *root.parents]
    top = next((n for n, folder in enumerate(above) if (folder / ".git").exists()), 0)
    for folder in above[: top + 1]:
        for place in (".venv/bin/python", ".venv/Scripts/python.exe"):
            if (folder / place).exists():
                return str(folder / place)
    return shutil.which("python") or shutil.which("python3") or sys.executable


def ask(python: str, modules: list[str], root: Path) -> dict[str, Any]:
    done = _run([python, "-c", PROBE, *modules], root)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"python_error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    return answer


def optional(project: Project, catalogue: Catalogue) -> list[str]:
    return [part.imports for part in project.answers.parts(catalogue) if part.imports]


def of_python(python: str, probe: dict[str, Any]) -> Iterator[Finding]:
    if "python_error" in probe:
        yield to_fix(f"{python} does not run: {probe['python_error']}", "create a new .venv")
        return
    version = ".".join(map(str, probe["python"]))
    if tuple(probe["python"]) < OLDEST_PYTHON:
        yield to_fix(f"Python {version} is too old", "create a .venv with Python 3.10 or newer")
    else:
        yield Finding("ok", f"Python {version}, {python}")


def of_torch(probe: dict[str, Any]) -> Iterator[Finding]:
    if "torch" not in probe:
        yield to_fix(f"torch: {probe.get('torch_error', 'unknown')}", "pip install torch")
        return
    if numbers(probe["torch"].partition("+")[0]) < OLDEST_TORCH:
        yield to_fix(f"torch {probe['torch']} is too old", 'pip install "torch>=2.9"')
    driver = shutil.which("nvidia-smi") is not None
    if probe["devices"]:
        yield Finding("ok", f"torch {probe['torch']}, {probe['devices']} CUDA devices")
    elif driver and probe.get("cuda") is None:
        yield to_fix(
            f"an NVIDIA driver is installed, but torch {probe['torch']} is built without CUDA",
            "install the build for your driver, see pytorch.org/get-started",
        )
    elif driver:
        yield to_fix(
            f"an NVIDIA driver is installed, but torch (CUDA {probe['cuda']}) sees no device",
            "compare with the CUDA version that `nvidia-smi` shows, and check CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Finding("ok", f"torch {probe['torch']}, no NVIDIA driver, trains on the CPU or MPS")


def of_runtime(project: Project, probe: dict[str, Any]) -> Iterator[Finding]:
    needed = " ".join(f'"{line}"' for line in requirements(project.answers.runtime))
    fix = f"pip install {needed}"
    if "runtime" not in probe:
        yield to_fix(f"scaffold-runtime: {probe.get('runtime_error', 'unknown')}", fix)
    elif numbers(probe["runtime"])[:2] < numbers(project.answers.version)[:2]:
        yield to_fix(f"scaffold-runtime {probe['runtime']} is older than the templates", fix)
    else:
        yield Finding("ok", f"scaffold-runtime {probe['runtime']}")


def of_strategy(project: Project, probe: dict[str, Any]) -> Iterator[Finding]:
    for name in project.answers.on("strategy"):
        if name not in probe.get("strategies", [name]):
            yield to_fix(
                f"strategy `{name}`: the installed scaffold-runtime does not support it",
                f"scaffold remove strategy {name}",
            )


def of_packages(project: Project, catalogue: Catalogue, probe: dict[str, Any]) -> Iterator[Finding]:
    for part in project.answers.parts(catalogue):
        if part.imports and part.imports in probe.get("missing", ()):
            needed = " ".join(f'"{line}"' for line in part.requirements)
            yield to_fix(f"{part.kind} `{part.name}` needs {part.imports}", f"pip install {needed}")


def of_lost(lost: list[tuple[str, str]]) -> Iterator[Finding]:
    for kind, name in lost:
        what = f"{kind} `{one_line(name)}` is on, but neither in the templates nor in a plugin"
        yield to_fix(what, way_out([(kind, name)]))


def of_project(project: Project, catalogue: Catalogue) -> Iterator[Finding]:
    from scaffold.transition import pending_conflicts, unmerged_files

    root = project.root
    for path in project.damaged:
        yield to_fix(f"the lock's entry for `{path}` was edited", "scaffold doctor --rebuild")
    if is_gone(project):
        what = f"the package `{project.answers.package}/` no longer exists"
        yield to_fix(what, "correct `name:` in `.scaffold/answers.yml`, then run `scaffold update`")
    for path in pending_conflicts(root):
        yield to_fix(f"`{path}` has conflict markers", "resolve them, then run `scaffold resolve`")
    for path in unmerged_files(project):
        yield to_fix(
            f"git has a conflict in `{path}`",
            "edit it, or run `scaffold doctor --rebuild` if it is generated; then `git add` it",
        )
    if (root / WORK / "journal.json").exists():
        yield to_fix("a change was interrupted", "`scaffold resolve` rolls it back")
    for path, fix in out_of_place(root, [p for p in project.lock if (root / p).exists()]).items():
        yield Finding("note", f"`{path}` has no effect here", fix)
    if numbers(project.answers.version) < numbers(catalogue.version):
        what = f"generated by {project.answers.version}, the templates are {catalogue.version}"
        yield Finding("note", what, "scaffold update")
    elif not project.damaged:
        yield Finding(
            "ok", f"project `{project.answers.name}`, {len(project.lock)} generated files"
        )


def of_files(project: Project, probe: dict[str, Any]) -> Iterator[Finding]:
    """Generated files that an edit made unreadable; `of_configs` checks those in `configs/`."""
    disk, checked = Disk(project.root), "torch" in probe and "runtime" in probe
    for path, entry in project.lock.items():
        found = disk.get(path)
        if not isinstance(found, File) or (path.startswith("configs/") and checked):
            continue
        why = mistake(path, found.data)
        if why and parses(path, entry.file.data):
            yield to_fix(
                f"`{path}` cannot be read: {why}",
                "correct it; `scaffold diff` shows what was edited",
            )


def of_configs(python: str, root: Path, probe: dict[str, Any]) -> Iterator[Finding]:
    """Runs the project's `train.py check`, which builds everything in `configs/` without training."""
    script = root / "train.py"
    if "torch" not in probe or "runtime" not in probe or not (root / "configs").is_dir():
        return
    if not script.is_file() or b"scaffold_runtime.cli" not in script.read_bytes():
        yield Finding("note", "configs are not checked: train.py does not call `run` on them")
        return
    done = _run([python, "train.py", "check"], root)
    if not done.returncode:
        yield Finding("ok", "configs: model, data, trainer, callbacks and loggers can be created")
        return
    said = done.stderr.strip() or "train.py fails"
    if not said.startswith("error: "):  # not a mistake in a config: the code itself fails
        said = f"{_place(said, root)}: {said.splitlines()[-1]}"
    for error in said.removeprefix("error: ").split("\nerror: "):
        what, _, more = error.partition("\n")
        fix = more.strip() or "fix that, then run `python train.py check`"
        yield to_fix(f"configs: {what}", fix)


def _place(traceback: str, root: Path) -> str:
    """The last line of the project's own code in a traceback."""
    found = re.findall(r'File "([^<].*)", line (\d+)', traceback)
    lines = [(os.path.relpath(file, os.path.realpath(root)), line) for file, line in found]
    own = [f"{file}, line {line}" for file, line in lines if not file.startswith(".")]
    return own[-1] if own else "train.py"


def of_disk(root: Path) -> Iterator[Finding]:
    runs = root / "runs"
    if runs.exists() and not runs.is_dir():
        yield to_fix(f"{runs} is not a folder", "move it away: runs are written there")
    elif not os.access(runs if runs.exists() else root, os.W_OK):
        yield to_fix(f"cannot write to {runs}", "change its owner or its permissions")
    free = shutil.disk_usage(root).free
    if free < LEAST_DISK:
        yield to_fix(f"only {free / 2**20:.0f} MB of disk left", "make room for checkpoints")
    else:
        yield Finding("ok", f"{free / 2**30:.0f} GB of disk free")


def _run(words: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # else a pipe has the machine's encoding
    output: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    try:
        return subprocess.run(words, cwd=root, env=env, timeout=120, **output)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
