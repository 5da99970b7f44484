"""Choosing what to take from a checkpoint, from Python and from the command line."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import script

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.plugins import TorchCheckpointIO


class Look(Callback):
    """What a run begins with."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizer = trainer.optimizers[0]
        self.step, self.lr = trainer.global_step, optimizer.param_groups[0]["lr"]
        self.remembers = len(optimizer.state)
        self.weights = {k: v.clone() for k, v in pl_module.state_dict().items()}


@pytest.fixture
def module(regression: Any) -> Any:
    class Scheduled(regression):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5**e)]

    return Scheduled


@pytest.fixture
def saved(tmp_path: Path, make_trainer: Any, module: Any, make_loader: Any) -> tuple[Path, Any]:
    trainer, trained = make_trainer(max_epochs=1), module()
    trainer.fit(trained, make_loader(6))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt", trained


@pytest.fixture
def begin(make_trainer: Any, module: Any, make_loader: Any, saved: Any) -> Any:
    def fit(model: Any = None, **choice: Any) -> Look:
        look = Look()
        trainer = make_trainer(max_epochs=3, callbacks=look)
        trainer.fit(model or module(), make_loader(6), ckpt_path=saved[0], **choice)
        look.end = trainer.optimizers[0].param_groups[0]["lr"]
        return look

    return fit


def test_it_is_the_class_that_loads(saved: Any, module: Any) -> None:
    """Called on an object, which would stay as it is, it is an error and not a silent nothing."""
    path, trained = saved
    with pytest.raises(MisconfigurationException, match=r"model = Scheduled\.load_from_checkpoint"):
        trained.load_from_checkpoint(path)

    class Own(module):  # type: ignore[misc] # a fixture gives the class
        @classmethod
        def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Any:
            return super().load_from_checkpoint(*arguments, **options)

    for made in (module.load_from_checkpoint(path), Own.load_from_checkpoint(path)):
        assert torch.equal(made.net[0].weight, trained.net[0].weight)


@pytest.mark.parametrize("batches", [6, 3])
def test_a_run_that_is_over_is_said_to_be(
    saved: Any, module: Any, make_loader: Any, make_trainer: Any, capsys: Any, batches: int
) -> None:
    """At the end of an epoch, and in the middle of one that this trainer does not have."""
    path = saved[0]
    if batches == 3:
        keep = ModelCheckpoint(path.parent, "b", every_n_train_steps=9)
        trainer = make_trainer(max_epochs=2, callbacks=keep, enable_checkpointing=True)
        trainer.fit(module(), make_loader(6), ckpt_path=path)
        path = keep.best_model_path
    look = Look()
    make_trainer(max_epochs=1, callbacks=look).fit(module(), make_loader(6), ckpt_path=path)
    said = capsys.readouterr().out
    step = 6 if batches == 6 else 9
    assert f"Nothing is left to train: the checkpoint is at epoch 1 and step {step}" in said
    assert not hasattr(look, "step")


class Counter(Callback):
    """Its key in a checkpoint is one that Lightning's documentation makes, too."""

    seen = 0

    @property
    def state_key(self) -> str:
        return self._generate_state_key(what="batches")

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}


def test_callbacks_that_are_gone_are_named(
    tmp_path: Path, module: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(callbacks=Counter())
    trainer.fit(module(), make_loader(6))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"not there now: Counter\{'what': 'batches'\}"):
        make_trainer(max_epochs=2).fit(module(), make_loader(6), ckpt_path=tmp_path / "a.ckpt")


def test_all(begin: Any) -> None:
    look = begin()
    assert (look.step, look.lr, look.remembers) == (6, 0.05, 4)


def test_weights_begin_a_new_run(begin: Any, saved: Any) -> None:
    look = begin(restore="weights")
    assert (look.step, look.lr, look.remembers) == (0, 0.1, 0)
    for name, weight in saved[1].state_dict().items():
        assert torch.equal(look.weights[name], weight)


def test_weights_and_what_optimizers_remember(begin: Any) -> None:
    look = begin(restore="optimizers")
    assert (look.step, look.lr, look.remembers) == (0, 0.1, 4)


@pytest.mark.parametrize(("restore", "end"), [("all", 0.8 * 0.125), ("optimizers", 0.8 * 0.125)])
def test_a_new_learning_rate(begin: Any, restore: str, end: float) -> None:
    """Its schedule goes on from it."""
    look = begin(restore=restore, restore_lr=0.8)
    assert (look.lr, look.remembers) == (0.8, 4)
    assert look.end == pytest.approx(end)


def test_some_weights(begin: Any, saved: Any, module: Any) -> None:
    model = module()
    own = model.net[2].weight.detach().clone()
    look = begin(model, restore="weights", restore_keys="net.0.*")
    assert torch.equal(look.weights["net.0.weight"], saved[1].net[0].weight)
    assert torch.equal(look.weights["net.2.weight"], own)


def test_strict_or_not(begin: Any, module: Any) -> None:
    class Wider(module):  # type: ignore[misc] # a fixture gives the class
        def __init__(self) -> None:
            super().__init__()
            self.more = torch.nn.Linear(2, 2)

    with pytest.raises(CheckpointError, match=r"more\.bias, more\.weight.*restore_strict=False"):
        begin(Wider(), restore="weights")
    assert begin(Wider(), restore="weights", restore_strict=False).step == 0
    with pytest.raises(CheckpointError, match="do not fit"):
        begin(module(width=3), restore="weights", restore_strict=False)
    model = Wider()
    model.more = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(50)))
    with pytest.raises(CheckpointError, match=r"more\.1\.weight and 96 more\."):
        begin(model, restore="weights")


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"restore": "weight"}, "restore='weight'.: choose 'all', 'weights' or 'optimizers'"),
        ({"restore_keys": "net.*"}, "use it with restore='weights'"),
        ({"restore": "weights", "restore_lr": 0.1}, "restore_lr=0.1"),
        ({"restore_lr": -1.0}, "number above 0"),
        ({"restore": "weights", "ckpt_path": None}, "give its `ckpt_path`"),
    ],
)
def test_wrong_values(
    make_trainer: Any, module: Any, make_loader: Any, choice: dict[str, Any], says: str
) -> None:
    with pytest.raises(MisconfigurationException, match=says):
        make_trainer().fit(module(), make_loader(2), **{"ckpt_path": "last", **choice})


def test_no_weight_has_such_a_name(begin: Any) -> None:
    with pytest.raises(CheckpointError, match=r"the same weights 'head\.\*': there are none"):
        begin(restore="weights", restore_keys="head.*")


def test_a_one_cycle_schedule_has_its_own_rates(begin: Any, module: Any) -> None:
    class Cycle(module):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 99)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

    with pytest.raises(MisconfigurationException, match="OneCycleLR sets learning rates itself"):
        begin(Cycle(), restore="optimizers", restore_lr=0.2)


def test_a_one_cycle_schedule_lasts_as_long_as_a_run_that_goes_on(
    module: Any, make_trainer: Any, make_loader: Any, tmp_path: Path
) -> None:
    """In the checkpoint it is over after the epochs of that run; one with as many goes on as it was."""

    class Cycle(module):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            steps = self.trainer.estimated_stepping_batches
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, int(steps))
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

    def end(epochs: int, **options: Any) -> Any:
        trainer = make_trainer(max_epochs=epochs)
        trainer.fit(Cycle(), make_loader(6), **options)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return trainer.lr_scheduler_configs[0].scheduler

    assert end(1).total_steps == 6
    longer = end(3, ckpt_path=tmp_path / "a.ckpt")
    assert longer.total_steps == longer.last_epoch == 18
    assert longer.get_last_lr()[0] < 0.01
    assert end(2, ckpt_path=tmp_path / "a.ckpt").total_steps == 18  # of a run that is over


def test_weights_only_files_begin_runs(
    begin: Any, saved: Any, make_trainer: Any, module: Any, make_loader: Any
) -> None:
    trainer = make_trainer()
    trainer.fit(module(), make_loader(2))
    trainer.save_checkpoint(saved[0], weights_only=True)
    assert begin(restore="weights").step == 0
    with pytest.raises(CheckpointError, match="weights only: use restore='weights'"):
        begin(restore="optimizers")
    with pytest.raises(CheckpointError, match="by restore='weights'"):
        begin()


PROJECT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from scaffold_runtime import Callback, LightningDataModule, LightningModule
from scaffold_runtime.cli import run

class Model(LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, width), nn.Linear(width, 1)
    def training_step(self, batch, batch_idx):
        return self.head(self.body(batch[0])).square().mean()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)
    def on_train_start(self):
        optimizer = self.trainer.optimizers[0]
        bias = self.body.bias.sum().item(), self.head.bias.sum().item()
        print("began", self.trainer.global_step, optimizer.param_groups[0]["lr"], len(optimizer.state), *bias)
    def on_train_end(self):
        print("ended", self.body.bias.sum().item(), self.head.bias.sum().item())

class Data(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 4)), 4)

if __name__ == "__main__":
    run(Model, Data)
"""


def command(folder: Path, *words: str, code: int = 0) -> dict[str, list[str]]:
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    ended, out, err = script(folder, "fit", *quiet, *words)
    assert ended == code, err
    rows = [line.split() for line in out.splitlines()]
    found = {row[0]: row[1:] for row in rows if row and row[0] in ("began", "ended")}
    return {**found, "error": [err]}


def test_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROJECT)
    (tmp_path / "configs").mkdir()
    for name, text in {
        "trainer": "max_epochs: 1\naccelerator: cpu\n",
        "model": "{}",
        "data": "{}",
    }.items():
        (tmp_path / "configs" / f"{name}.yaml").write_text(text)
    body, head = command(tmp_path)["ended"]
    resume = ("--ckpt_path=last",)
    more = "--trainer.max_epochs=2"
    assert command(tmp_path, *resume, more)["began"] == ["2", "0.1", "4", body, head]
    path = str(next(tmp_path.rglob("epoch=1*.ckpt")))
    state = read_checkpoint(Path(path))["state_dict"]
    body, head = (str(state[f"{part}.bias"].sum().item()) for part in ("body", "head"))
    chosen = ("--ckpt_path", path)
    weights = command(tmp_path, *chosen, "--restore", "weights")
    assert weights["began"] == ["0", "0.1", "0", body, head]
    moments = command(tmp_path, *chosen, "--restore=optimizers", "--restore_lr=0.3")
    assert moments["began"] == ["0", "0.3", "4", body, head]
    some = command(tmp_path, *chosen, "--restore=weights", "--restore_keys=body.*")["began"]
    assert some[3] == body and some[4] != head
    wider = ("--model.width=9", *chosen, "--restore=weights", "--restore_strict=false")
    assert "do not fit" in command(tmp_path, *wider, code=1)["error"][0]
    unknown = command(tmp_path, *chosen, "--restore=weight", code=2)["error"][0]
    assert unknown.startswith("error: restore: expected") and "'optimizers'" in unknown
    wrong = command(tmp_path, *chosen, "--restore_keys=body.*", code=1)["error"][0]
    assert wrong.startswith("error: restore_keys='body.*' chooses among weights")


@pytest.mark.parametrize("restore", ["all", "optimizers"])
def test_optimizers_may_write_what_they_remember_in_their_own_way(
    restore: str, regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    """As those do that hold another one."""

    class Outer(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            return super().step(closure)

        def state_dict(self) -> dict[str, Any]:
            return {"taken": self.steps}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.steps = state_dict["taken"]

    class Model(regression):
        def configure_optimizers(self) -> Any:
            return Outer(self.parameters(), lr=0.1)

    first = make_trainer(max_epochs=1)
    first.fit(Model(), make_loader(4))
    first.save_checkpoint(tmp_path / "own.ckpt")
    second = make_trainer(max_epochs=2)
    second.fit(Model(), make_loader(4), ckpt_path=tmp_path / "own.ckpt", restore=restore)
    assert second.optimizers[0].steps == {"all": 8, "optimizers": 12}[restore]


class Alive(TorchCheckpointIO):
    """Counts how many of the checkpoints that it read are in memory at once."""

    def __init__(self) -> None:
        self.read: list[Any] = []
        self.most = 0

    def load_checkpoint(self, *given: Any, **options: Any) -> Any:
        kept = OrderedDict(super().load_checkpoint(*given, **options))
        self.read.append(weakref.ref(kept))
        self.most = max(self.most, sum(each() is not None for each in self.read))
        return kept


def test_of_many_files_of_weights_one_is_kept_in_memory(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    def trainer(*plugins: Any) -> Any:
        save = ModelCheckpoint(tmp_path, save_top_k=-1, save_weights_only=True)
        options = {"max_epochs": 4, "enable_checkpointing": True, "plugins": list(plugins)}
        return make_trainer(callbacks=[save], **options)

    trainer().fit(regression(), make_loader(1))
    alive = Alive()
    with pytest.raises(CheckpointError, match="holds weights only"):
        trainer(alive).fit(regression(), make_loader(1), ckpt_path="last")
    assert (
        len(alive.read) == 4 and alive.most == 3
    )  # the one kept, the one before, and the one being read
