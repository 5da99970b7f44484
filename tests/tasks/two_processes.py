"""Trains rendered projects one after another, each in two forked processes; writes errors to told.json."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 - all that tasks import: once here, not in each process
import pandas  # noqa: F401
import sklearn.ensemble
import sklearn.linear_model
import sklearn.naive_bayes
import sklearn.neural_network  # noqa: F401
import statsmodels.datasets  # noqa: F401
import torch
import torch._dynamo  # optimizers import it at their first step
import transformers.models.llama.modeling_llama  # noqa: F401

import scaffold_runtime.report
import scaffold_runtime.strategies.fsdp  # noqa: F401
from scaffold_runtime.cli import run
from scaffold_runtime.strategies.launch import places, run_in_processes

LIMIT = timedelta(seconds=90)
WORDS = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
]


def train(model: str, data: str, folder: str, words: Sequence[str]) -> str:
    """Train in one of two processes; its output and final weights go into files."""
    rank = os.environ["RANK"]
    printed = os.open(f"{folder}/printed{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.path.insert(0, os.getcwd())
    package = Path.cwd().name.replace("-", "_")
    classes = [
        getattr(importlib.import_module(f"{package}.{module}"), name)
        for module, name in (("model", model), ("data", data))
    ]
    ran: Any = run(*classes, configs=Path(folder).resolve(), args=["fit", *WORDS, *words])
    trainer = ran.trainer
    assert trainer.world_size == 2
    assert trainer.global_step >= 1
    weights = {name: weight.detach() for name, weight in ran.model.named_parameters()}
    torch.save(weights, f"{folder}/weights{rank}.pt")
    return str(trainer.checkpoint_callback.best_model_path)


def check(folder: Path, checkpoint: str) -> None:
    """Raise unless rank 1 prints nothing, and replicas and checkpoints agree."""
    assert not (text := (folder / "printed1").read_text()), f"the second process prints {text}"
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    if folder.name == "ddp":
        for rank in (0, 1):
            same(saved, torch.load(folder / f"weights{rank}.pt"))
    torch.save(saved, folder / "saved.pt")
    if folder.name == "fsdp":
        same(saved, torch.load(folder.parent / "ddp" / "saved.pt"))


def same(saved: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        torch.testing.assert_close(saved[name], weight, rtol=1e-3, atol=1e-5, msg=f"{name} differs")


def tell(project: str, model: str, data: str, folder: str, *words: str) -> str:
    """The error, or an empty string."""
    os.chdir(project)
    try:
        call = partial(train, model, data, folder, words)
        check(Path(folder), run_in_processes("fork", places(2, 1, 0), call, LIMIT))
    except Exception:
        return f"{Path(folder, 'printed0').read_text()}{traceback.format_exc()}"[-2500:]
    finally:
        os.chdir("..")
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = {" ".join(each[::3][:2]): tell(*each) for each in json.loads(sys.argv[1])}
    Path("told.json").write_text(json.dumps(told))
