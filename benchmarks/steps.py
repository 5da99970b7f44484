"""Rows of time per step: all contestants train or evaluate the same model on the same batches."""

from __future__ import annotations

import importlib
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType
from typing import Any

import models
import torch
from models import Watch
from table import Contestant, Row, installed
from torch import Tensor, nn
from torch.nn import functional as F

Data = Callable[[int], Watch]
OFF: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


class Terminal(io.StringIO):
    """A fake terminal, so that progress bars do all their work."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def per_step(run: Callable[[Watch, str], None], data: Data, steps: int) -> Contestant:
    """Seconds per step of `run(batches, folder)`, from the 21st batch to the last."""

    def contestant() -> float:
        batches = data(steps)
        with (
            tempfile.TemporaryDirectory() as folder,
            redirect_stdout(Terminal()),
            redirect_stderr(Terminal()),
        ):
            run(batches, folder)
        return batches.seconds_per_step()

    return contestant


# -- the plain loops ----------------------------------------------------------------------------------


def plain(network: Callable[[], nn.Module]) -> Callable[[Watch, str], None]:
    def run(data: Watch, folder: str) -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for inputs, labels in data.loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()

    return run


def plain_validation(data: Watch, folder: str) -> None:
    model = models.mlp().eval()
    total = correct = torch.zeros(())
    with torch.no_grad():
        for inputs, labels in data.loader:
            logits = model(inputs)
            total = total + F.cross_entropy(logits, labels) * len(labels)
            correct = correct + (logits.argmax(1) == labels).sum()


# -- ours and Lightning, with the same module ---------------------------------------------------------


def module(framework: ModuleType, network: nn.Module, logs: int) -> Any:
    class Model(framework.LightningModule):  # type: ignore[misc, name-defined] # either framework
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            if logs == 1:
                self.log("loss", loss, prog_bar=True)
            for number in range(logs if logs > 1 else 0):
                self.log(f"loss{number}", loss, on_step=True, on_epoch=True, batch_size=32)
            return loss

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            logits = self.network(batch[0])
            self.log("val_loss", F.cross_entropy(logits, batch[1]))
            self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Model()


def trainer(framework: ModuleType, folder: str, settings: dict[str, Any]) -> Any:
    defaults = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "default_root_dir": folder}
    if not settings.get("barebones"):
        loggers = importlib.import_module(f"{framework.__name__}.loggers")
        defaults |= {"logger": loggers.CSVLogger(folder), "enable_model_summary": False}
    return framework.Trainer(**{**defaults, **settings})


def idle_callbacks(framework: ModuleType, number: int) -> list[Any]:
    class Idle(framework.Callback):  # type: ignore[misc, name-defined] # either framework
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pass

    return [Idle() for _ in range(number)]


def fitting(
    framework: str, network: Callable[[], nn.Module], logs: int, idle: int = 0, **settings: Any
) -> Callable[[Watch, str], None]:
    def run(data: Watch, folder: str) -> None:
        package = importlib.import_module(framework)
        model = module(package, network(), logs)
        callbacks = {"callbacks": idle_callbacks(package, idle)} if idle else {}
        trainer(package, folder, {**settings, **callbacks}).fit(model, data.loader)

    return run


def validating(framework: str) -> Callable[[Watch, str], None]:
    def run(data: Watch, folder: str) -> None:
        package = importlib.import_module(framework)
        model = module(package, models.mlp(), 0)
        trainer(package, folder, {}).validate(model, data.loader, verbose=False)

    return run


# -- the other peers ----------------------------------------------------------------------------------


def accelerate(data: Watch, folder: str) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = models.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data.loader)
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()


def ignite(data: Watch, folder: str) -> None:
    from ignite.engine import create_supervised_trainer

    model = models.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    create_supervised_trainer(model, optimizer, F.cross_entropy).run(data.loader, max_epochs=1)


def ignite_defaults(data: Watch, folder: str) -> None:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import ProgressBar

    model = models.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    engine = create_supervised_trainer(model, optimizer, F.cross_entropy)
    ProgressBar().attach(engine, output_transform=lambda loss: {"loss": loss})
    engine.run(data.loader, max_epochs=1)


def ignite_validation(data: Watch, folder: str) -> None:
    from ignite.engine import create_supervised_evaluator
    from ignite.metrics import Accuracy, Loss

    metrics = {"acc": Accuracy(), "loss": Loss(F.cross_entropy)}
    create_supervised_evaluator(models.mlp(), metrics).run(data.loader)


def _keras() -> tuple[Any, Any]:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(models.CLASSES)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss, metrics=["accuracy"][:0])
    return keras, model


def keras(data: Watch, folder: str) -> None:
    _, model = _keras()
    model.fit(data.loader, epochs=1, verbose=0)


def keras_defaults(data: Watch, folder: str) -> None:
    package, model = _keras()
    model.fit(data.loader, epochs=1, callbacks=[package.callbacks.CSVLogger(f"{folder}/log.csv")])


def keras_validation(data: Watch, folder: str) -> None:
    _, model = _keras()
    model.evaluate(data.loader, verbose=0)


# -- the rows -----------------------------------------------------------------------------------------


def row(
    key: str,
    name: str,
    goal: float,
    data: Data,
    runs: dict[str, Callable[[Watch, str], None]],
    steps: int = 1020,
    peer_steps: int = 220,
    **settings: Any,
) -> Row:
    contestants = {
        who: per_step(run, data, steps if who in ("base", "ours") else peer_steps)
        for who, run in runs.items()
        if who in ("base", "ours") or installed(who)
    }
    return Row(key, name, goal, "µs", contestants, **settings)


def both(*args: Any, **settings: Any) -> dict[str, Callable[[Watch, str], None]]:
    return {
        "ours": fitting("scaffold_runtime", *args, **settings),
        "Lightning": fitting("lightning.pytorch", *args, **settings),
    }


def rows() -> list[Row]:
    tiny, base = models.mlp, {"base": plain(models.mlp)}
    bare = {"barebones": fitting("lightning.pytorch", tiny, 0, barebones=True)}
    others = {"Accelerate": accelerate, "Ignite": ignite, "Keras": keras}
    shown = {"Ignite": ignite_defaults, "Keras": keras_defaults}
    evaluation = {
        "base": plain_validation,
        "ours": validating("scaffold_runtime"),
        "Lightning": validating("lightning.pytorch"),
        "Ignite": ignite_validation,
        "Keras": keras_validation,
    }
    cnn = {"base": plain(models.cnn), **both(models.cnn, 1)}
    gpt = {"base": plain(models.gpt), **both(models.gpt, 1)}
    few = {"steps": 50, "peer_steps": 35, "peer_rounds": 1}
    return [
        row("off", "tiny MLP, everything off", 1.03, models.vectors,
            {**base, **both(tiny, 0, **OFF), **bare, **others}, rounds=15),
        row("defaults", "tiny MLP, defaults", 1.10, models.vectors,
            {**base, **both(tiny, 1), **shown}, rounds=15),
        row("logs", "tiny MLP, 20 `self.log` a step", 1.50, models.vectors,
            {**base, **both(tiny, 20)}, rounds=9, peer_steps=60),
        row("callbacks", "tiny MLP, 16 idle callbacks, against none", 1.0, models.vectors,
            {"base": fitting("scaffold_runtime", tiny, 0, **OFF),
             "ours": fitting("scaffold_runtime", tiny, 0, 16, **OFF)}, rounds=15),
        row("validation", "validation, 2 metrics", 1.10, models.vectors, evaluation, rounds=11),
        row("tensors", "tiny MLP, defaults, from a `TensorDataset`", 1.10, models.tensors,
            {**base, **both(tiny, 1), **shown}, rounds=11),
        row("cnn", "small CNN, defaults", 1.01, models.images, cnn, rounds=25, **few),
        row("gpt", "small GPT, defaults", 1.01, models.text, gpt, rounds=25, **few),
    ]  # fmt: skip
