"""The user's proof, the one warning, and the run folder that goes on."""

from __future__ import annotations

import csv
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_cells import MAKE, Model, loader
from torch.utils.data import DataLoader, IterableDataset, Sampler

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import CheckpointError
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.positions import Part, Seeded
from scaffold_runtime.testing import (
    Interrupter,
    Interruption,
    ResumeError,
    check_resume,
    compare_runs,
    train,
)

SETTINGS: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_the_proof_passes(tmp_path: Path) -> None:
    check_resume(MAKE["validation"], tmp_path, **SETTINGS)


def test_the_proof_names_the_first_step_and_state(tmp_path: Path) -> None:
    class Forgetful(Model):
        steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.steps += 1
            return super().training_step(batch, batch_idx) * self.steps

    with pytest.raises(ResumeError, match=r"epoch \d, batch \d: loss differs after resuming"):
        check_resume(lambda: (Forgetful(), loader()), tmp_path, **SETTINGS)


class Drawing(IterableDataset):
    """Draws from the generators of this process, and keeps no position."""

    def __iter__(self) -> Any:
        for _ in range(20):
            yield torch.rand(4) + random.random(), torch.tensor([1])


class LateSampler(Sampler):
    def __iter__(self) -> Any:
        for _ in range(20):
            yield int(torch.randint(20, ()))

    def __len__(self) -> int:
        return 20


class Batches:
    """Something of the user's own that gives batches."""

    def __iter__(self) -> Any:
        return iter([(torch.ones(4, 4) * i, torch.ones(4, 1, dtype=torch.long)) for i in range(5)])

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: DataLoader(Drawing(), 4), "first 2 batches of the epoch were loaded again"),
        (lambda: Batches(), "Batches cannot be positioned: the first 2 batches"),
        (lambda: DataLoader(MAKE["plain"]()[1].dataset, 4, sampler=LateSampler()), "LateSampler"),
    ],
)
def test_one_warning_says_what_will_repeat(tmp_path: Path, data: Any, says: str) -> None:
    make = lambda: (Model(), data())  # noqa: E731
    train(make, tmp_path, 0, Interrupter("on_train_batch_start", 3), **SETTINGS)
    with pytest.warns(UserWarning, match=says) as seen:
        train(make, tmp_path, 0, **SETTINGS)
    assert len(seen) == 1


def test_what_can_be_positioned_is_silent_and_loads_nothing_twice(tmp_path: Path) -> None:
    loaded: list[int] = []

    class Counting(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            loaded.append(index)
            return torch.ones(4) * index, torch.tensor([1])

    make = lambda: (Model(), DataLoader(Counting(), 4, shuffle=True))  # noqa: E731
    train(make, tmp_path, 0, Interrupter("on_train_batch_start", 4), max_epochs=1)
    first = loaded.copy()
    loaded.clear()
    train(make, tmp_path, 0, max_epochs=1)
    assert len(loaded) == 8
    assert sorted(first[:12] + loaded) == list(range(20))


def test_the_run_folder_goes_on_without_doubled_rows(tmp_path: Path, make_trainer: Any) -> None:
    def life(stop: int | None, resume: Any = None) -> Any:
        torch.manual_seed(0)
        extra = [Interrupter("on_train_batch_start", stop)] if stop else []
        save = ModelCheckpoint(every_n_train_steps=4)
        trainer = make_trainer(
            max_epochs=3, callbacks=[*extra, save], enable_checkpointing=True,
            logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1),
        )  # fmt: skip
        with suppress(Interruption):
            trainer.fit(*MAKE["plain"](), ckpt_path=resume)
        return trainer

    assert life(8).logger.version == 0
    path = next(tmp_path.rglob("*.ckpt"))
    trainer = life(None, path)
    assert trainer.logger.version == 0
    rows = list(csv.DictReader(Path(trainer.log_dir, "metrics.csv").read_text().splitlines()))
    steps = [int(row["step"]) for row in rows if row["loss_step"]]
    assert steps == list(range(15))
    assert Path(trainer.log_dir, "metrics.replaced.csv").exists()
    assert path.exists(), "somebody chose this file"
    assert life(None).logger.version == 1


def test_workers_see_the_data_set_itself() -> None:
    part = Part(loader(num_workers=2))
    seeded = part.iterable.dataset
    assert isinstance(seeded, Seeded)
    seeded.handle = 7  # what a worker_init_fn does
    assert part.loader.dataset.handle == 7 and seeded.handle == 7
    with pytest.raises(AttributeError):
        seeded.nothing  # noqa: B018


def test_comparing_finds_a_missing_batch() -> None:
    row = {"epoch": 0, "batch": 0, "loss": "a"}
    with pytest.raises(ResumeError, match="batch 0 was never trained on"):
        compare_runs([row], {}, [], {})
    with pytest.raises(ResumeError, match="no such batch"):
        compare_runs([], {}, [row], {})
    with pytest.raises(ResumeError, match="at the end `a`"):
        compare_runs([row], {"a": 1}, [row], {"a": 1.0})


@pytest.mark.filterwarnings("ignore:`training_step` returned None")
def test_a_window_whose_last_batch_has_no_loss_ends_with_a_step(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Skipping(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if batch_idx == 0 else None

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self.trainer.save_checkpoint("middle.ckpt")

    whole, resumed = Skipping(), Skipping()
    make_trainer(accumulate_grad_batches=2).fit(whole, make_loader(2))
    trainer = make_trainer(accumulate_grad_batches=2)
    trainer.fit(resumed, make_loader(2), ckpt_path="middle.ckpt")

    assert trainer.global_step == 1
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_a_job_that_slurm_started_again_goes_on_from_its_own_run(
    make_trainer: Any, regression: Any, make_loader: Any, monkeypatch: Any
) -> None:
    """Others train in the same place meanwhile; one of them had no checkpoint yet when it was started again."""

    def job(number: int, epochs: int, resume: str | None = None) -> Any:
        monkeypatch.setenv("SLURM_JOB_ID", str(number))
        save = ModelCheckpoint(filename="{epoch}")
        arguments = {"logger": CSVLogger("logs"), "enable_checkpointing": True}
        trainer = make_trainer(callbacks=save, max_epochs=epochs, **arguments)
        trainer.fit(regression(), make_loader(2), ckpt_path=resume)
        return trainer

    job(71, 1)
    job(72, 2)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = job(71, 4, "last")

    assert again.ckpt_path.endswith("epoch=0.ckpt") and again.log_dir.endswith("version_0")
    with pytest.warns(UserWarning, match="there is no checkpoint yet"):
        assert job(74, 1, "last").ckpt_path is None
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert job(75, 1, "last").ckpt_path is not None  # a new job: of all that are there


def test_a_run_whose_version_was_given_goes_on_from_its_own_checkpoints(
    make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    """As the folds of a cross validation: the newest checkpoint is of one that trained on other rows."""

    def fold(number: int, epochs: int) -> Any:
        save = ModelCheckpoint(filename="{epoch}")
        logger = CSVLogger("logs", "folds", version=f"fold_{number}")
        arguments = {"logger": logger, "enable_checkpointing": True}
        return make_trainer(callbacks=save, max_epochs=epochs, **arguments)

    for number in (0, 1):
        fold(number, 1).fit(regression(), make_loader(2))
    again = fold(0, 2)
    again.fit(regression(), make_loader(2), ckpt_path="last")

    assert "/fold_0/" in again.ckpt_path and again.current_epoch == 2
    first = fold(1, 1)
    first.validate(regression(), make_loader(2), ckpt_path="best", verbose=False)
    assert "/fold_1/" in first.ckpt_path
    new = fold(2, 1)
    with pytest.warns(UserWarning, match="there is no checkpoint yet"):
        new.fit(regression(), make_loader(2), ckpt_path="last")
    assert new.ckpt_path is None and new.global_step == 2
    with pytest.raises(CheckpointError, match="under logs/folds/fold_3"):
        fold(3, 1).validate(regression(), make_loader(2), ckpt_path="best")


@pytest.mark.parametrize("bare", [True, False])
def test_last_is_the_newest_of_all_folders_that_a_run_saves_into(
    bare: bool, make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    """The best go elsewhere, perhaps without what a run resumes from."""

    class Worse(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float(self.current_epoch))

    def trainer(epochs: int) -> Any:
        best = ModelCheckpoint("best", monitor="val_loss", save_weights_only=bare)
        return make_trainer(
            callbacks=[best, ModelCheckpoint(save_last=True)], max_epochs=epochs,
            logger=CSVLogger("logs"), enable_checkpointing=True,
        )  # fmt: skip

    trainer(2).fit(Worse(), make_loader(2), make_loader(2))
    again = trainer(3)
    again.fit(Worse(), make_loader(2), make_loader(2), ckpt_path="last")

    assert again.ckpt_path.endswith("last.ckpt") and again.global_step == 6
    tested = trainer(3)
    tested.validate(Worse(), make_loader(2), ckpt_path="best", verbose=False)
    assert "/best/epoch=0" in tested.ckpt_path


def test_names_of_metrics_with_a_slash_make_folders_that_are_looked_into(
    make_trainer: Any, regression: Any, make_loader: Any
) -> None:
    class Slashed(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.loss(batch))

    def trainer(epochs: int) -> Any:
        keep = ModelCheckpoint(monitor="val/loss", filename="{epoch}-{val/loss:.3f}", save_top_k=-1)
        return make_trainer(
            callbacks=keep, max_epochs=epochs, logger=CSVLogger("logs"), enable_checkpointing=True
        )

    trainer(2).fit(Slashed(), make_loader(2), make_loader(2))
    again = trainer(3)
    again.fit(Slashed(), make_loader(2), make_loader(2), ckpt_path="last")
    assert again.global_step == 6
    assert "/checkpoints/epoch=1-val/loss=" in again.ckpt_path
    tested = trainer(3)
    tested.validate(Slashed(), make_loader(2), ckpt_path="best", verbose=False)
    assert tested.ckpt_path
