"""ModelCheckpoint: when it saves, what it keeps, and under which names."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scaffold_runtime.callbacks import LambdaCallback, ModelCheckpoint
from scaffold_runtime.checkpoint.io import write_checkpoint
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.plugins import TorchCheckpointIO

SCORES = [5.0, 3.0, 4.0, 1.0, 2.0, 6.0]


@pytest.fixture
def scored(regression) -> Any:
    """A module that logs the next of `scores` as `score` at each validation."""

    class Scored(regression):
        scores = SCORES

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if not self.trainer.sanity_checking:
                self.log("score", self.scores[min(self.trainer.current_epoch, 5)])

    return Scored


@pytest.fixture
def train(scored, make_loader, make_trainer) -> Any:
    """`train(callback, **trainer arguments)` for six epochs of four batches, validated once each."""

    def run(*callbacks: Any, module: Any = None, ckpt_path: Any = None, **arguments: Any) -> Any:
        defaults = {"max_epochs": 6, "enable_checkpointing": True, "num_sanity_val_steps": 0}
        trainer = make_trainer(**{**defaults, **arguments}, callbacks=list(callbacks))
        trainer.fit(module or scored(), make_loader(4), make_loader(1), ckpt_path=ckpt_path)
        return trainer

    return run


def files(folder: str = "saved") -> list[str]:
    return sorted(file.name for file in Path(folder).glob("*"))


def step_of(path: str | Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


# -- what is kept ---------------------------------------------------------------------------------


def test_without_monitor_the_newest_is_kept(train) -> None:
    save = ModelCheckpoint("saved")
    train(save)

    assert files() == ["epoch=5-step=24.ckpt"]
    assert save.best_model_path == os.path.realpath("saved/epoch=5-step=24.ckpt")
    assert save.best_model_score is None


@pytest.mark.parametrize(
    ("mode", "top", "epochs"),
    [
        ("min", 1, [3]),
        ("min", 2, [3, 4]),
        ("max", 2, [0, 5]),
        ("min", -1, [0, 1, 2, 3, 4, 5]),
        ("min", 0, []),
        ("max", 9, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_best_k_are_kept(mode: str, top: int, epochs: list[int], train) -> None:
    save = ModelCheckpoint("saved", "{epoch}", monitor="score", mode=mode, save_top_k=top)
    train(save)

    assert files() == [f"epoch={epoch}.ckpt" for epoch in epochs]
    if top == 0:
        assert save.best_model_path == ""
        return
    pick, worst = (min, max) if mode == "min" else (max, min)
    kept = [SCORES[epoch] for epoch in epochs]
    assert sorted(save.best_k_models.values()) == sorted(kept)
    assert float(save.best_model_score) == pick(kept)
    assert save.best_model_path.endswith(f"epoch={SCORES.index(pick(kept))}.ckpt")
    assert save.kth_value == worst(kept)
    assert save.current_score == 6.0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_the_worst(mode: str, scored, train) -> None:
    class Broken(scored):
        scores = [float("nan"), 2.0, float("nan"), 3.0, float("nan"), float("nan")]

    save = ModelCheckpoint("saved", "{epoch}", monitor="score", mode=mode, save_top_k=2)
    train(save, module=Broken())

    assert files() == ["epoch=1.ckpt", "epoch=3.ckpt"]
    assert float(save.best_model_score) == (2.0 if mode == "min" else 3.0)


def test_a_new_file_is_whole_before_an_old_one_goes(train, monkeypatch) -> None:
    seen: list[list[str]] = []

    def write(self: Any, checkpoint: Any, path: Path, **options: Any) -> None:
        seen.append(files())
        write_checkpoint(checkpoint, Path(path))

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", write)
    train(ModelCheckpoint("saved", "{epoch}"), max_epochs=3)

    assert seen == [[], ["epoch=0.ckpt"], ["epoch=1.ckpt"]]


# -- last -----------------------------------------------------------------------------------------


def test_last_is_a_copy_of_the_newest(train) -> None:
    save = ModelCheckpoint("saved", "{epoch}", monitor="score", save_last=True)
    train(save)

    assert files() == ["epoch=3.ckpt", "last.ckpt"]
    assert not Path("saved/last.ckpt").is_symlink()
    assert step_of("saved/last.ckpt") == 24
    assert save.last_model_path == os.path.realpath("saved/last.ckpt")


def test_last_can_be_a_link(train) -> None:
    train(ModelCheckpoint("saved", "{epoch}", save_last="link"))

    assert files() == ["epoch=5.ckpt", "last.ckpt"]
    assert os.readlink("saved/last.ckpt") == "epoch=5.ckpt"


def test_a_linked_last_becomes_a_file_where_the_newest_is_not_kept(train) -> None:
    train(ModelCheckpoint("saved", "{epoch}", monitor="score", save_last="link"))

    assert not Path("saved/last.ckpt").is_symlink()
    assert step_of("saved/last.ckpt") == 24
    assert step_of("saved/epoch=3.ckpt") == 16


def test_last_alone(train) -> None:
    train(ModelCheckpoint("saved", save_top_k=0, save_last=True))

    assert files() == ["last.ckpt"]


def test_last_may_have_a_name_that_changes(train) -> None:
    save = ModelCheckpoint("saved", "{epoch}", save_top_k=0, save_last=True)
    save.CHECKPOINT_NAME_LAST = "{epoch}-newest"
    train(save)

    assert files() == ["epoch=5-newest.ckpt"]


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [4, 8, 12, 16, 20, 24]),
        ({"every_n_epochs": 2}, [8, 16, 24]),
        ({"every_n_train_steps": 5}, [5, 10, 15, 20]),
        ({"every_n_epochs": 0}, []),
        ({"save_on_train_epoch_end": False}, [4, 8, 12, 16, 20, 24]),
        ({"save_on_train_epoch_end": True, "every_n_epochs": 3}, [12, 24]),
    ],
)
def test_intervals(arguments: dict[str, Any], steps: list[int], train) -> None:
    train(ModelCheckpoint("saved", "{step}", save_top_k=-1, **arguments))

    assert sorted(step_of(f"saved/{name}") for name in files()) == steps


def test_a_time_interval_saves_at_the_next_batch(train, monkeypatch) -> None:
    save = ModelCheckpoint("saved", "{step}", save_top_k=-1, train_time_interval=timedelta(hours=1))
    clock = [0.0]
    monkeypatch.setattr(
        "scaffold_runtime.callbacks.model_checkpoint.time.monotonic", lambda: clock[0]
    )

    def tick(*_: Any) -> None:
        clock[0] += 600.0

    train(LambdaCallback(on_train_batch_start=tick), save)

    assert sorted(map(step_of, Path("saved").iterdir())) == [6, 12, 18, 24]


def test_several_callbacks_for_several_triggers(train) -> None:
    often = ModelCheckpoint("often", "{step}", save_top_k=-1, every_n_train_steps=10)
    best = ModelCheckpoint("best", "{epoch}", monitor="score")
    train(often, best)

    assert files("often") == ["step=10.ckpt", "step=20.ckpt"]
    assert files("best") == ["epoch=3.ckpt"]


def test_a_step_save_waits_for_the_first_validation(train) -> None:
    save = ModelCheckpoint("saved", "{step}-{score}", "score", save_top_k=-1, every_n_train_steps=3)
    train(save, max_epochs=2)

    # Due at 3, when nothing was validated yet; at 6, with the first score.
    assert files() == ["step=4-score=5.0.ckpt", "step=6-score=5.0.ckpt"]


def test_the_last_is_saved_before_the_first_validation(train) -> None:
    seen = []
    look = LambdaCallback(on_train_batch_start=lambda *_: seen.append(files()))
    save = ModelCheckpoint("saved", "{step}", "score", every_n_train_steps=2, save_last=True)
    train(look, save, max_epochs=1)

    assert seen == [[], [], ["last.ckpt"], ["last.ckpt"]]
    assert files() == ["last.ckpt", "step=4.ckpt"] and step_of("saved/last.ckpt") == 4


def test_one_for_two_trainers_is_said(train, make_loader) -> None:
    save = ModelCheckpoint("saved", monitor="score")
    trainer = train(save, max_epochs=1)
    trainer.max_epochs = 2
    trainer.fit(trainer.lightning_module, make_loader(4), make_loader(1))
    train(save, max_epochs=3, ckpt_path=save.best_model_path)
    with pytest.warns(UserWarning, match="comes from another trainer.*epoch=1"):
        train(save, max_epochs=1)


def test_a_step_save_uses_the_score_of_this_step(train) -> None:
    save = ModelCheckpoint("saved", "{step}-{score}", "score", save_top_k=-1, every_n_train_steps=4)
    train(save, max_epochs=3, val_check_interval=1.0)

    assert files() == ["step=12-score=4.0.ckpt", "step=4-score=5.0.ckpt", "step=8-score=3.0.ckpt"]


def test_a_waiting_save_outlasts_epochs_without_validation(train) -> None:
    save = ModelCheckpoint("saved", "{step}", "score", save_top_k=-1, every_n_train_steps=3)
    train(save, max_epochs=2, check_val_every_n_epoch=2)

    assert files() == ["step=8.ckpt"]


def test_validation_in_the_middle_saves_after_each(scored, train) -> None:
    save = ModelCheckpoint("saved", "{step}", save_top_k=-1)
    train(save, max_epochs=2, val_check_interval=2)

    assert files() == ["step=2.ckpt", "step=4.ckpt", "step=6.ckpt", "step=8.ckpt"]


def test_no_save_in_fast_dev_run_and_sanity_check_and_outside_fit(
    scored, make_loader, make_trainer
) -> None:
    save = ModelCheckpoint("saved", every_n_train_steps=1)
    trainer = make_trainer(fast_dev_run=True, callbacks=save)
    trainer.fit(scored(), make_loader(2), make_loader(2))
    trainer.validate(scored(), make_loader(2), verbose=False)

    assert not Path("saved").exists()


def test_validation_outside_fit_saves_nothing(scored, make_loader, make_trainer) -> None:
    save = ModelCheckpoint("saved")
    trainer = make_trainer(enable_checkpointing=True, callbacks=save)
    trainer.validate(scored(), make_loader(2), verbose=False)

    assert not Path("saved").exists()


def test_accumulation_saves_at_whole_windows_only(train) -> None:
    train(
        ModelCheckpoint("saved", "{step}", save_top_k=-1, every_n_train_steps=1),
        accumulate_grad_batches=2,
        max_epochs=1,
    )

    for name in files():
        progress = torch.load(f"saved/{name}", weights_only=True)["progress"]
        assert progress["batches"] == 2 * progress["step"]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "auto", "name"),
    [
        (None, True, "epoch=3-step=40.ckpt"),
        ("{epoch:03d}-{loss:.2f}", True, "epoch=003-loss=0.12.ckpt"),
        ("{epoch:03d}-{loss:.2f}", False, "003-0.12.ckpt"),
        ("best-{val/acc:.1f}", False, "best-0.5.ckpt"),
        ("{missing}", True, "missing=0.ckpt"),
        ("plain", True, "plain.ckpt"),
    ],
)
def test_names(filename: str | None, auto: bool, name: str) -> None:
    save = ModelCheckpoint(filename=filename, auto_insert_metric_name=auto)
    metrics = {"epoch": 3, "step": 40, "loss": torch.tensor(0.1234), "val/acc": 0.5}

    assert save.format_checkpoint_name(metrics) == name


def test_names_have_parts_that_can_be_changed() -> None:
    class Mine(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        FILE_EXTENSION = ".pt"

    save = Mine("/tmp/x")
    assert save.format_checkpoint_name({"epoch": 1, "step": 2}, ver=3).endswith(
        "/x/epoch:1_step:2_v3.pt"
    )


def test_names_that_are_taken_get_versions(train) -> None:
    Path("saved").mkdir()
    for name in ("same.ckpt", "same-v1.ckpt", "last.ckpt"):
        Path("saved", name).write_text("somebody else's")

    train(ModelCheckpoint("saved", "same", save_top_k=-1, save_last=True), max_epochs=2)

    kept = ["last-v1", "last", "same-v1", "same-v2", "same-v3", "same"]
    assert files() == [f"{name}.ckpt" for name in kept]
    assert Path("saved/same-v1.ckpt").read_text() == "somebody else's"


def test_without_versions_a_name_is_written_over(train) -> None:
    train(ModelCheckpoint("saved", "same", save_top_k=-1, enable_version_counter=False))

    assert files() == ["same.ckpt"]
    assert step_of("saved/same.ckpt") == 24


def test_the_folder_is_the_loggers(train) -> None:
    from scaffold_runtime.loggers import CSVLogger

    save = ModelCheckpoint()
    train(save, logger=CSVLogger("logs", "exp"), max_epochs=1)

    assert save.dirpath == os.path.realpath("logs/exp/version_0/checkpoints")
    assert files(save.dirpath) == ["epoch=0-step=4.ckpt"]


def test_without_logger_the_folder_is_the_root(train) -> None:
    train(ModelCheckpoint(), default_root_dir="root", max_epochs=1)

    assert files("root/checkpoints") == ["epoch=0-step=4.ckpt"]


# -- resume ---------------------------------------------------------------------------------------


def test_two_runs_from_one_checkpoint_save_in_their_own_folders(train) -> None:
    from scaffold_runtime.loggers import CSVLogger

    def run(root: str, epochs: int, **arguments: Any) -> ModelCheckpoint:
        save = ModelCheckpoint(filename="{epoch}")
        train(save, logger=CSVLogger(root, "exp"), max_epochs=epochs, **arguments)
        return save

    first = run("first", 1).best_model_path
    for root, epochs in (("second", 2), ("third", 3)):
        with pytest.warns(UserWarning, match="ModelCheckpoint now saves into .* none is removed"):
            run(root, epochs, ckpt_path=first)

    for root, name in (("first", "epoch=0"), ("second", "epoch=1"), ("third", "epoch=2")):
        assert files(f"{root}/exp/version_0/checkpoints") == [f"{name}.ckpt"]
    run(
        "first", 2, ckpt_path=first
    )  # where the logger goes on in the old folder, so do checkpoints
    assert [p.name for p in Path("first/exp").iterdir()] == ["version_0"]
    assert "epoch=1.ckpt" in files("first/exp/version_0/checkpoints")


def test_the_state_of_a_run_elsewhere_brings_its_folder(train) -> None:
    save, again = ModelCheckpoint(monitor="score"), ModelCheckpoint(monitor="score")
    train(save)
    again.load_state_dict(save.state_dict())

    assert again.dirpath == save.dirpath
    assert again.best_k_models == save.best_k_models


def test_a_resumed_run_knows_what_is_best(train) -> None:
    arguments: dict[str, Any] = {"monitor": "score", "save_top_k": 2, "save_last": True}
    train(ModelCheckpoint("saved", "{epoch}", **arguments), max_epochs=4)
    save = ModelCheckpoint("saved", "{epoch}", **arguments)
    trainer = train(save, ckpt_path="saved/last.ckpt")

    assert files() == ["epoch=3.ckpt", "epoch=4.ckpt", "last.ckpt"]
    assert trainer.global_step == 24
    assert sorted(save.best_k_models.values()) == [1.0, 2.0]


def test_the_file_resumed_from_is_never_removed(train) -> None:
    train(ModelCheckpoint("saved", "{epoch}"), max_epochs=2)
    train(ModelCheckpoint("saved", "{epoch}"), ckpt_path="saved/epoch=1.ckpt")

    assert files() == ["epoch=1.ckpt", "epoch=5.ckpt"]


def test_another_folder_leaves_the_old_one_alone(train) -> None:
    train(ModelCheckpoint("old", "{epoch}", monitor="score", save_top_k=2), max_epochs=4)
    save = ModelCheckpoint("new", "{epoch}", monitor="score", save_top_k=2)
    with pytest.warns(UserWarning, match="only the best is remembered"):
        train(save, ckpt_path="old/epoch=3.ckpt")

    assert files("old") == ["epoch=1.ckpt", "epoch=3.ckpt"]
    assert files("new") == ["epoch=4.ckpt", "epoch=5.ckpt"]


def test_what_a_killed_save_left_is_swept(train) -> None:
    Path("saved").mkdir()
    Path("saved/.epoch=0.ckpt.1234.partial").touch()
    train(ModelCheckpoint("saved"))

    assert files() == ["epoch=5-step=24.ckpt"]


# -- trouble --------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_the_old_file_stays(train, monkeypatch) -> None:
    real = torch.save

    def save(checkpoint: Any, file: Any) -> None:
        if checkpoint["global_step"] > 8:
            raise OSError(28, "No space left on device")
        real(checkpoint, file)

    monkeypatch.setattr("scaffold_runtime.checkpoint.io.torch.save", save)
    with pytest.raises(CheckpointError, match=r"epoch=2.*No space left"):
        train(ModelCheckpoint("saved", "{epoch}"))

    assert files() == ["epoch=1.ckpt"]


def test_a_file_that_cannot_be_removed_is_said_and_left(train, monkeypatch) -> None:
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".ckpt":
            raise PermissionError(13, "Permission denied")
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.warns(UserWarning, match="could not remove"):
        train(ModelCheckpoint("saved", "{epoch}"), max_epochs=2)

    assert files() == ["epoch=0.ckpt", "epoch=1.ckpt"]


@pytest.mark.parametrize(("hook", "step"), [("train", 6), ("validation", 8)])
def test_an_exception_is_saved_if_asked(train, hook: str, step: int) -> None:
    def fail(trainer: Any, *_: Any) -> None:
        if trainer.global_step == step:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(
            LambdaCallback(**{f"on_{hook}_batch_start": fail}),
            ModelCheckpoint("saved", "{epoch}", save_on_exception=True),
        )

    assert files() == ["epoch=0.ckpt", f"exception-ZeroDivisionError-epoch=1-step={step}.ckpt"]


def test_a_monitor_that_nothing_logs_is_refused(train) -> None:
    with pytest.raises(MisconfigurationException, match="Did you mean `score`"):
        train(ModelCheckpoint("saved", monitor="scor"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"mode": "best"}, "mode='best'"),
        ({"save_top_k": -2}, "save_top_k=-2"),
        ({"save_top_k": 2}, "monitor=None"),
        ({"save_last": "copy"}, "save_last='copy'"),
        ({"every_n_epochs": -1}, "every_n_epochs=-1"),
        ({"every_n_epochs": 1, "every_n_train_steps": 1}, "cannot be used together"),
        ({"every_n_epochs": 1, "train_time_interval": timedelta(1)}, "cannot be used together"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(MisconfigurationException, match=part):
        ModelCheckpoint(**arguments)


def test_two_of_one_kind_are_refused_and_two_of_different_kinds_not(train) -> None:
    with pytest.raises(MisconfigurationException, match="state key"):
        train(ModelCheckpoint("one"), ModelCheckpoint("two"))


def test_the_kept_ones_can_be_listed(train) -> None:
    save = ModelCheckpoint("saved", "{epoch}", monitor="score", save_top_k=2)
    train(save)
    save.to_yaml()

    listed = yaml.safe_load(Path("saved/best_k_models.yaml").read_text())
    assert {Path(path).name: score for path, score in listed.items()} == {
        "epoch=3.ckpt": 1.0,
        "epoch=4.ckpt": 2.0,
    }


def test_scores_of_sixty_four_bits_are_kept_as_they_are(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Module(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", torch.tensor(0.1, dtype=torch.float64))

    saves = ModelCheckpoint(tmp_path, monitor="score")
    make_trainer(max_epochs=2, callbacks=saves, enable_checkpointing=True).fit(
        Module(), make_loader(1), make_loader(1)
    )
    assert list(saves.best_k_models.values()) == [0.1]
    assert "epoch=0" in saves.best_model_path  # an equal one is not better
