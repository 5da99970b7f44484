"""Every task in two processes, under ddp and under fsdp, with the configuration that `scaffold add` writes.

Processes are forked from one that has imported everything, which takes a tenth of the time of starting them. DeepSpeed
has an environment of its own (`make test-deepspeed`), and trains there what tests/scaffold/test_trains.py has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scaffold.catalogue import packaged
from scaffold.cli import main

TASKS = packaged().tasks
DRIVER = Path(__file__).parent / "two_processes.py"
SECOND_EPOCH = {"finetune": ["--trainer.max_epochs=2", "--callbacks.unfreeze.at_epoch=1"]}
REFUSED = {  # what each says; diffusion trains under fsdp without its averages
    ("diffusion", "fsdp"): "EMAWeightAveraging averages whole weights",
    ("generative-adversarial", "fsdp"): "with manual optimization",
}


def scaffold(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert not ended.value.code


@pytest.fixture
def projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All tasks, each with a folder of configuration per strategy."""
    for task in TASKS:
        monkeypatch.chdir(tmp_path)
        scaffold("new", f"my-{task}", "--task", task, "--defaults", "--no-git")
        monkeypatch.chdir(tmp_path / f"my-{task}")
        for strategy in ("ddp", "fsdp"):
            scaffold("add", "strategy", strategy)
            shutil.copytree("configs", strategy)
    without = shutil.ignore_patterns("ema.yaml")
    shutil.copytree("../my-diffusion/fsdp", "../my-diffusion/fsdp-bare", ignore=without)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_task_trains_two_batches_in_two_processes(
    projects: Path, quick: dict[str, list[str]]
) -> None:
    """Or reports why not. Replicas stay equal, shards give the same model, and only one process prints."""
    words = {name: [*quick.get(name, []), *SECOND_EPOCH.get(name, [])] for name in TASKS}
    runs = [
        [f"my-{name}", task.model, task.data, folder, *words[name]]
        for name, task in TASKS.items()
        for folder in ("ddp", "fsdp", "fsdp-bare")
        if (projects / f"my-{name}" / folder).exists()
    ]
    done = subprocess.run(
        [sys.executable, str(DRIVER), json.dumps(runs)],
        cwd=projects,
        capture_output=True,
        text=True,
        timeout=550,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            # the engine's own call in a gather with gradients; torch has it in newer versions only
            "PYTHONWARNINGS": "ignore:torch.distributed.nn.functional.all_gather:FutureWarning",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((projects / "told.json").read_text())
    assert len(told) == 2 * len(TASKS) + 1
    for (task, strategy), says in REFUSED.items():
        assert says in told.pop(f"my-{task} {strategy}")
    assert not any(told.values()), {run: error for run, error in told.items() if error}
