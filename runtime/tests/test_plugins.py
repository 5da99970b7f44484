"""Plugins: another way to write checkpoints; precisions and environments have tests of their own."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.plugins import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from scaffold_runtime.plugins.environments import SLURMEnvironment


class Pickled(CheckpointIO):
    """A way of one's own, as Lightning's documentation teaches to write one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def note(self, what: str, path: Any) -> None:
        self.calls.append((what, Path(path).name, threading.current_thread().name))

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.note("save", path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(pickle.dumps(checkpoint))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        self.note("load", path)
        return pickle.loads(Path(path).read_bytes())

    def remove_checkpoint(self, path: Any) -> None:
        self.note("remove", path)
        Path(path).unlink(missing_ok=True)

    def teardown(self) -> None:
        self.note("teardown", "")


@pytest.mark.parametrize("background", [False, True])
def test_an_own_way_writes_reads_and_removes(
    background: bool, tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    own = Pickled()
    plugin = AsyncCheckpointIO(own) if background else own

    def trainer(epochs: int) -> Any:
        keep = ModelCheckpoint(tmp_path, save_last=True)
        return make_trainer(
            max_epochs=epochs, plugins=[plugin], callbacks=[keep], enable_checkpointing=True
        )

    trainer(2).fit(regression(), make_loader())
    writer = "checkpoint_0" if background else "MainThread"
    names = [f"epoch={epoch}-step={6 * (epoch + 1)}.ckpt" for epoch in (0, 1)]
    saved = [call for call in own.calls if call[0] == "save"]
    assert saved == [("save", name, writer) for name in names]
    removed = [name for what, name, _ in own.calls if what == "remove"]
    assert removed == [names[0]]  # and nothing that was never saved
    assert ("remove", names[0], writer) in own.calls
    assert own.calls[-1][0] == "teardown"
    with pytest.raises(CheckpointError, match="not in torch's zip format"):
        make_trainer().fit(regression(), make_loader(), ckpt_path=tmp_path / "last.ckpt")
    resumed = trainer(3)
    resumed.fit(regression(), make_loader(), ckpt_path="last")
    assert ("load", "last.ckpt", "MainThread") in own.calls
    assert resumed.global_step == 18


def test_async_is_what_model_checkpoint_does_with_async_save(
    tmp_path: Path, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    states = []
    for plugins, asynchronous in ((None, False), (None, True), (AsyncCheckpointIO(), False)):
        torch.manual_seed(0)
        keep = ModelCheckpoint(tmp_path / f"{len(states)}", async_save=asynchronous)
        trainer = make_trainer(plugins=plugins, callbacks=[keep], enable_checkpointing=True)
        trainer.fit(regression(), make_loader())
        states.append(TorchCheckpointIO().load_checkpoint(keep.best_model_path)["state_dict"])
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_what_ended_training_is_not_hidden_by_a_save_that_failed_too(
    make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    class Unreachable(TorchCheckpointIO):
        def save_checkpoint(self, *arguments: Any, **options: Any) -> None:
            raise ValueError("no bucket")

    class Failing(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * (1 / (batch_idx < 2))

    keep = ModelCheckpoint("saved", every_n_train_steps=2)
    trainer = make_trainer(
        plugins=AsyncCheckpointIO(Unreachable()), callbacks=[keep], enable_checkpointing=True
    )
    with (
        pytest.raises(ZeroDivisionError),
        pytest.warns(UserWarning, match="could not save: no bucket"),
    ):
        trainer.fit(Failing(), make_loader())


def test_the_default_way(tmp_path: Path, make_trainer: Any) -> None:
    io = make_trainer().checkpoint_io
    assert isinstance(io, TorchCheckpointIO)
    path = tmp_path / "a" / "b.ckpt"
    io.save_checkpoint({"x": torch.ones(2)}, path)
    assert torch.equal(io.load_checkpoint(path)["x"], torch.ones(2))
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    assert not path.exists()


@pytest.mark.parametrize("kind", [TorchCheckpointIO, SLURMEnvironment])
def test_two_of_a_kind_are_refused(kind: Any, make_trainer: Any) -> None:
    with pytest.raises(MisconfigurationException, match="twice"):
        make_trainer(plugins=[kind(), kind()])
