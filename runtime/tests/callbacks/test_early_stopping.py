"""EarlyStopping: when it checks, and why it stops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scaffold_runtime.callbacks import EarlyStopping, LambdaCallback
from scaffold_runtime.callbacks.early_stopping import EarlyStoppingReason
from scaffold_runtime.errors import MisconfigurationException


@pytest.fixture
def scored(regression) -> Any:
    """A module that logs the next of `scores` as `score` at each validation."""

    class Scored(regression):
        def __init__(self, scores: list[float]) -> None:
            super().__init__()
            self.scores, self.checks = scores, 0

        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.log("score", self.scores[min(self.checks, len(self.scores) - 1)])
                self.checks += 1

    return Scored


@pytest.fixture
def train(scored, make_loader, make_trainer) -> Any:
    """`train(stop, scores, **trainer arguments)` for up to ten epochs of four batches."""

    def run(stop: EarlyStopping, scores: list[float], ckpt_path: Any = None, **given: Any) -> Any:
        callbacks = [stop, *given.pop("more", [])]
        trainer = make_trainer(**{"max_epochs": 10, **given}, callbacks=callbacks)
        trainer.fit(scored(scores), make_loader(4), make_loader(1), ckpt_path=ckpt_path)
        return trainer

    return run


FALLING = [5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 2.0]


@pytest.mark.parametrize(
    ("arguments", "scores", "epochs", "reason"),
    [
        ({"patience": 1}, FALLING, 4, "PATIENCE_EXHAUSTED"),
        ({"patience": 3}, FALLING, 6, "PATIENCE_EXHAUSTED"),
        ({"patience": 4}, FALLING, 10, "NOT_STOPPED"),
        ({"patience": 2, "min_delta": 1.5}, FALLING, 5, "PATIENCE_EXHAUSTED"),
        ({"patience": 2, "mode": "max"}, FALLING, 3, "PATIENCE_EXHAUSTED"),
        ({"stopping_threshold": 3.05}, FALLING, 3, "STOPPING_THRESHOLD"),
        ({"divergence_threshold": 4.5}, [4.0, 4.2, 5.0], 3, "DIVERGENCE_THRESHOLD"),
        ({"divergence_threshold": 4.5, "mode": "max"}, [5.0, 4.6, 4.0], 3, "DIVERGENCE_THRESHOLD"),
        ({}, [1.0, math.nan], 2, "NON_FINITE_METRIC"),
        (
            {"check_finite": False, "patience": 2},
            [1.0, math.inf, math.nan],
            3,
            "PATIENCE_EXHAUSTED",
        ),
    ],
)
def test_it_stops_for_a_reason(
    arguments: Any, scores: list[float], epochs: int, reason: str, train
) -> None:
    stop = EarlyStopping("score", **arguments)

    trainer = train(stop, scores)

    assert trainer.current_epoch == epochs
    assert stop.stopping_reason is EarlyStoppingReason[reason]
    if reason != "NOT_STOPPED":
        assert stop.stopped_epoch == epochs - 1
        assert "score" in (stop.stopping_reason_message or "")


def test_checks_are_counted_not_epochs(train) -> None:
    stop = EarlyStopping("score", patience=2)
    trainer = train(stop, [1.0, 2.0, 3.0], val_check_interval=2)

    assert (trainer.global_step, stop.wait_count) == (6, 2)


def test_without_validation_it_checks_each_training_epoch(
    regression, make_loader, make_trainer
) -> None:
    class Worse(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("worse", float(self.global_step), on_epoch=True, on_step=False)
            return self.loss(batch)

    trainer = make_trainer(max_epochs=9, callbacks=EarlyStopping("worse", patience=2))
    trainer.fit(Worse(), make_loader(4))

    assert trainer.current_epoch == 3


def test_min_epochs_outlast_it(train) -> None:
    assert train(EarlyStopping("score", patience=1), [1.0, 2.0], min_epochs=5).current_epoch == 5


def test_a_resumed_run_goes_on_counting(train) -> None:
    scores = [1.0, 2.0, 2.0, 2.0, 2.0]

    def save(trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 2:
            trainer.save_checkpoint("two.ckpt")

    train(EarlyStopping("score"), scores, more=[LambdaCallback(on_train_epoch_start=save)])
    stop = EarlyStopping("score")
    trainer = train(stop, [2.0], ckpt_path="two.ckpt")

    assert trainer.current_epoch == 4
    assert float(stop.best_score) == 1.0 and stop.wait_count == 3


def test_a_run_that_was_stopped_stays_stopped_and_says_so(train, capsys) -> None:
    first = train(EarlyStopping("score", patience=1), [1.0, 2.0])
    first.save_checkpoint("end.ckpt")
    capsys.readouterr()
    second = train(EarlyStopping("score", patience=1), [0.0], ckpt_path="end.ckpt")

    assert first.current_epoch == second.current_epoch == 2
    assert "EarlyStopping: score had stopped this run. Remove it" in capsys.readouterr().out


def test_a_monitor_that_nothing_logs_is_refused(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(callbacks=EarlyStopping("val_los"))

    with pytest.raises(MisconfigurationException, match="Did you mean `val_loss`"):
        trainer.fit(regression(), make_loader(4), make_loader(1))


def test_not_strict_goes_on_without_its_monitor(regression, make_loader, make_trainer) -> None:
    trainer = make_trainer(max_epochs=2, callbacks=EarlyStopping("nothing", strict=False))
    trainer.fit(regression(), make_loader(4), make_loader(1))

    assert trainer.current_epoch == 2


def test_verbose_says_when_it_improves(train, capsys) -> None:
    train(EarlyStopping("score", verbose=True), [2.0, 1.0, 1.5], max_epochs=3)

    assert "score improved from 2 to 1" in capsys.readouterr().out


def test_a_wrong_mode_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="mode='best'"):
        EarlyStopping("score", mode="best")
    assert torch.isinf(EarlyStopping("score").best_score)
