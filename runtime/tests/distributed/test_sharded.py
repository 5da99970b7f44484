"""Checkpoints in parts: a folder with a file from each process, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import finish, start

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint import folder as folders
from scaffold_runtime.checkpoint.__main__ import main as command
from scaffold_runtime.checkpoint.io import is_checkpoint, read_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.errors import CheckpointError, RankFailed
from scaffold_runtime.signals import INTERRUPTED
from scaffold_runtime.strategies import SingleDeviceStrategy

from .conftest import note, notes
from .test_numbers import weights
from .test_signals import Sender, Slow

SHARDED = {"state_dict_type": "sharded"}


@pytest.fixture
def two(adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path) -> Path:
    """A folder with checkpoints of two epochs of two processes."""
    keep = ModelCheckpoint(tmp_path / "two", "{epoch}", save_top_k=2, monitor="loss", mode="max")
    trainer = fsdp(options=SHARDED, max_epochs=2, callbacks=keep, enable_checkpointing=True)
    trainer.fit(adam(), make_loader(8))
    return tmp_path / "two"


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("later", [False, True])
def test_kept_linked_and_removed(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, later: bool
) -> None:
    """The newest is kept, and once more as `last`; what is not kept any more leaves nothing behind."""
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_last=True, async_save=later)
    trainer = fsdp(options=SHARDED, max_epochs=3, callbacks=keep, enable_checkpointing=True)
    model = adam()
    trainer.fit(model, make_loader(8))

    assert names(tmp_path) == {"epoch=2.ckpt", "last.ckpt"}
    assert Path(keep.best_model_path).name == "epoch=2.ckpt"
    for name in names(tmp_path):
        assert len(names(tmp_path / name)) == 3  # two parts and the manifest
        state = read_checkpoint(tmp_path / name)
        assert difference(state["state_dict"], dict(model.state_dict())) is None
        assert len(state["ranks"]) == 2
    sizes = [
        part["size"]
        for part in json.loads((tmp_path / "last.ckpt/manifest.json").read_text())["parts"]
    ]
    assert abs(sizes[0] - sizes[1]) < 0.2 * sizes[0]  # each has its own, and not all


class Late(ModelCheckpoint):
    """In the last process it looks for free names when others may write already."""

    def _is_taken(self, path: str) -> bool:
        time.sleep(0.5 if os.environ["RANK"] == "3" else 0)
        return super()._is_taken(path)


def test_all_write_under_one_name(adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path) -> None:
    keep = Late(tmp_path, "{epoch}", save_top_k=-1)
    trainer = fsdp(4, SHARDED, max_epochs=2, callbacks=keep, enable_checkpointing=True)
    trainer.fit(adam(), make_loader(8))

    assert names(tmp_path) == {"epoch=0.ckpt", "epoch=1.ckpt"}


@pytest.mark.parametrize("then", ["one", "ddp", "fsdp"])
def test_any_number_and_any_strategy_loads_it(
    adam: Any,
    make_loader: Any,
    make_trainer: Any,
    ddp: Any,
    fsdp: Any,
    two: Path,
    then: str,
    tmp_path: Path,
) -> None:
    path = two / "epoch=1.ckpt"
    saved = read_checkpoint(path)

    class Look(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            whole = trainer.strategy.whole
            state = whole(trainer.optimizers[0].state_dict()["state"])
            note(tmp_path, "look", [whole(dict(module.state_dict())), state, trainer.global_step])

    model = adam()
    if then == "one":
        processes, trainer = 1, make_trainer(max_epochs=3, callbacks=Look())
        os.environ["RANK"] = "0"  # where it leaves its note
    else:
        processes = 4
        trainer = {"ddp": ddp, "fsdp": fsdp}[then](4, max_epochs=3, callbacks=Look())
    trainer.fit(model, make_loader(8), ckpt_path=path)

    for rank, (state_dict, state, step) in enumerate(notes(tmp_path, "look", processes)):
        assert step == 8
        if then == "fsdp" and rank:  # whole weights are in the first process only
            assert not any(tensor.numel() for tensor in state_dict.values())
            continue
        assert difference(state_dict, dict(saved["state_dict"])) is None
        assert difference(state, saved["optimizer_states"][0]["state"]) is None
    assert trainer.global_step > 8


def test_optimizer_states_are_put_together_one_by_one(
    adam: Any, make_loader: Any, fsdp: Any, two: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Three of four parts of what is read: no process needs room for them at once."""
    made: list[int] = []
    whole = folders._whole
    monkeypatch.setattr(folders, "_whole", lambda *of: made.append(1) or whole(*of))

    class Look(Callback):
        def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
            note(tmp_path, "read", len(made))

        def on_train_start(self, trainer: Any, module: Any) -> None:
            note(tmp_path, "all", len(made))

    path = two / "epoch=1.ckpt"
    fsdp(max_epochs=3, callbacks=Look()).fit(adam(), make_loader(8), ckpt_path=path)
    assert (notes(tmp_path, "read"), notes(tmp_path, "all")) == ([4, 4], [12, 12])


def test_consolidated_shown_and_verified(
    adam: Any, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = two / "epoch=1.ckpt", tmp_path / "one.ckpt"

    assert command(["consolidate", str(path), str(file)]) == 0
    assert command(["diff", str(path), str(file)]) == 0
    assert command(["verify", str(path)]) == 0
    assert command(["show", str(path)]) == 0
    assert "net.0.weight: float32 (8, 4)" in capsys.readouterr().out
    loaded = torch.load(file, weights_only=True)
    assert difference(loaded["state_dict"], dict(read_checkpoint(path)["state_dict"])) is None
    from_parts, from_file = adam.load_from_checkpoint(path), adam.load_from_checkpoint(file)
    assert torch.equal(weights(from_parts), weights(from_file))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("again", [False, True])
def test_killed_between_the_parts_and_the_manifest(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    rank: int, again: bool,
) -> None:  # fmt: skip
    """The previous checkpoint is good, also where the new one was to take its name; nothing is left over."""
    name = "same" if again else "{epoch}"
    options = {"enable_version_counter": False} if again else {"save_top_k": -1}

    def trainer() -> Any:
        keep = ModelCheckpoint(tmp_path / "kept", name, **options)
        return fsdp(options=SHARDED, max_epochs=3, callbacks=keep, enable_checkpointing=True)

    def kill(part: Any, checkpoint: Any) -> None:
        write(part, checkpoint)
        if part.rank == rank and checkpoint["global_step"] == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    write = folders.Part.write
    monkeypatch.setattr(folders.Part, "write", kill)
    with pytest.raises(RankFailed):
        trainer().fit(adam(), make_loader(8))
    monkeypatch.setattr(folders.Part, "write", write)

    kept = tmp_path / "kept"
    good = kept / ("same.ckpt" if again else "epoch=0.ckpt")
    assert read_checkpoint(good)["global_step"] == 4
    left = [
        part
        for part in kept.glob("*/part-*")
        if part.name not in (good / "manifest.json").read_text()
    ]
    assert left  # it was killed in between indeed

    trainer().fit(adam(), make_loader(8), ckpt_path="last")

    assert not [part for part in left if part.exists()]
    assert max(read_checkpoint(path)["global_step"] for path in kept.iterdir()) == 12
    assert all(len(names(path)) == 3 for path in kept.iterdir())


def test_a_process_that_cannot_write(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(part: Any, checkpoint: Any) -> None:
        if part.rank:
            raise CheckpointError("no space left on the disk of process 1")
        write(part, checkpoint)

    write = folders.Part.write
    monkeypatch.setattr(folders.Part, "write", full)
    with pytest.raises(RankFailed, match="no space left on the disk of process 1"):
        fsdp(
            options=SHARDED, callbacks=ModelCheckpoint(tmp_path / "kept"), enable_checkpointing=True
        ).fit(adam(), make_loader(8))
    assert not list(tmp_path.glob("kept/*"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Any] = {
    "a part is gone": (lambda f: f.parts[1].unlink(), "is missing"),
    "a part is cut": (lambda f: _cut(f.parts[1]), "not of the size"),
    "a bit flipped": (lambda f: _flip(f.parts[0]), "is damaged"),
    "one part twice": (lambda f: shutil.copy(f.parts[0], f.parts[1]), "part-"),
    "no manifest": (lambda f: f.manifest.unlink(), "without a manifest.json"),
    "another manifest": (lambda f: f.manifest.write_text('{"parts": []}'), "of another format"),
    "no JSON": (lambda f: f.manifest.write_text("{"), "cannot be read"),
    "out of the folder": (
        lambda f: f.manifest.write_text(f.manifest.read_text().replace("part-", "../part-", 1)),
        "names other files",
    ),
    "fewer parts": (
        lambda f: f.manifest.write_text(
            json.dumps({**json.loads(f.manifest.read_text()), "parts": f.listed[:1]})
        ),
        "belongs to another checkpoint",
    ),
}


class Folder:
    def __init__(self, path: Path) -> None:
        self.manifest, self.parts = path / "manifest.json", sorted(path.glob("part-*"))
        self.listed = json.loads(self.manifest.read_text())["parts"]


def test_damage_is_found(
    adam: Any, two: Path, make_trainer: Any, make_loader: Any, tmp_path: Path
) -> None:
    """Each is named; `last` goes on from the one before, with a warning, where something can be read."""
    for number, (damage, message) in enumerate(DAMAGES.values()):
        path = tmp_path / str(number) / "epoch=1.ckpt"
        shutil.copytree(two, path.parent)
        damage(Folder(path))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)

    trainer = make_trainer(
        max_epochs=2, callbacks=ModelCheckpoint(tmp_path / "1"), enable_checkpointing=True
    )
    with pytest.warns(UserWarning, match=r"is damaged.*Resuming from .*epoch=0"):
        trainer.fit(adam(), make_loader(8), ckpt_path="last")


@pytest.mark.parametrize("kind", ["full", "sharded"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.filterwarnings("ignore:ModelCheckpoint could not save")
def test_nothing_can_be_saved_without_the_others(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, kind: str, rank: int
) -> None:
    """One failed, and its part of the weights is lost: no half checkpoint, and nobody waits for it."""

    class Broken(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_rank == rank and trainer.global_step == 2:
                raise ValueError("broken here")

    begun = time.monotonic()
    callbacks = [Broken(), ModelCheckpoint(tmp_path / "kept", save_on_exception=True)]
    trainer = fsdp(
        options={"state_dict_type": kind}, callbacks=callbacks, enable_checkpointing=True
    )
    with pytest.raises(RankFailed, match="broken here"):
        trainer.fit(adam(), make_loader(16))

    assert time.monotonic() - begun < 10
    assert not [path for path in (tmp_path / "kept").glob("*") if is_checkpoint(path)]


@pytest.mark.parametrize("kind", ["full", "sharded"])
def test_a_signal_in_a_validation_inside_a_window(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, kind: str
) -> None:
    """Accumulated gradients are divided and not saved, so all finish the window; then they go on exactly."""

    def train(folder: str, *callbacks: Callback, resume: Any = None) -> Any:
        torch.manual_seed(0)
        save = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=5)
        trainer = fsdp(
            options={"state_dict_type": kind},
            callbacks=[*callbacks, Slow(), save],
            enable_checkpointing=True,
            accumulate_grad_batches=4,
            val_check_interval=14,
        )
        loader = make_loader(80, shuffle=True)
        trainer.fit(adam(), loader, make_loader(9), ckpt_path=resume)
        return read_checkpoint(Path(save.best_model_path))

    sender = Sender("on_validation_batch_start", signal.SIGTERM, "1")
    assert finish(*start(lambda: train("kept", sender)), 40)[0] == 143
    saved = read_checkpoint(tmp_path / "kept" / INTERRUPTED)
    assert 4 <= saved["global_step"] < 10
    assert "gradients" not in saved
    resumed = finish(*start(lambda: train("kept", resume="last")), 40)[1][1]
    whole = finish(*start(lambda: train("whole")), 40)[1][1]

    assert not (tmp_path / "kept" / INTERRUPTED).exists()
    for key in ("state_dict", "optimizer_states", "global_step"):
        assert difference({key: resumed[key]}, {key: whole[key]}) is None


@pytest.mark.parametrize("later", [False, True])
def test_an_engine_does_not_write_where_a_link_points_to(tmp_path: Path, later: bool) -> None:
    class Engine(SingleDeviceStrategy):
        sharded = owns_state = True

        def save_engine(self, folder: Path) -> None:
            torch.save({"weights": torch.ones(2)}, folder / "states.pt")

    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    folders.save(Engine("cpu"), {"epoch": 1}, best)
    last.symlink_to(best.name)
    if later:
        folders.save_later(Engine("cpu"), {"epoch": 2}, last)()
    else:
        folders.save(Engine("cpu"), {"epoch": 2}, last)

    assert [read_checkpoint(path)["epoch"] for path in (best, last)] == [1, 2]
    assert [len(names(path)) for path in (best, last)] == [3, 3]


@pytest.mark.parametrize("save_last", [True, "link"])
def test_one_kind_takes_the_place_of_the_other(
    adam: Any, make_loader: Any, ddp: Any, fsdp: Any, tmp_path: Path, save_last: Any
) -> None:
    """A run that goes on under another strategy writes under the same names: files, folders, files."""
    for epochs, make, options in ((1, ddp, {}), (2, fsdp, SHARDED), (3, ddp, {})):
        keep = ModelCheckpoint(
            tmp_path / "kept", "same", save_last=save_last, enable_version_counter=False
        )
        trainer = make(
            options=options, max_epochs=epochs, callbacks=keep, enable_checkpointing=True
        )
        resume = "last" if epochs > 1 else None
        trainer.fit(adam(), make_loader(8), ckpt_path=resume)

        assert names(tmp_path / "kept") == {"same.ckpt", "last.ckpt"}
        for path in (tmp_path / "kept").iterdir():
            assert path.is_dir() == (make is fsdp)
            assert read_checkpoint(path)["global_step"] == 4 * epochs
