"""Several loggers at once, and loggers that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.loggers import CSVLogger, Logger, TensorBoardLogger


class Broken(Logger):
    """Fails in the methods it is told to, from the `after`-th call on."""

    def __init__(self, *methods: str, after: int = 0) -> None:
        self.methods, self.after, self.calls = methods, after, 0

    name = version = None  # type: ignore[assignment] # it has neither

    def _maybe(self, method: str) -> None:
        if method in self.methods:
            self.calls += 1
            if self.calls > self.after:
                raise OSError(28, "No space left on device")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._maybe("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._maybe("log_hyperparams")

    def finalize(self, status: str) -> None:
        self._maybe("finalize")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._maybe("after_save_checkpoint")


def test_all_get_the_same_and_share_one_folder(regression, make_loader, make_trainer) -> None:
    Path("logs/exp/version_4").mkdir(parents=True)
    loggers = [CSVLogger("logs", "exp"), TensorBoardLogger("logs", "exp")]
    save = ModelCheckpoint()
    trainer = make_trainer(logger=loggers, callbacks=save, enable_checkpointing=True, max_epochs=2)
    trainer.fit(regression(), make_loader(3))

    assert {logger.log_dir for logger in loggers} == {"logs/exp/version_5"}
    assert sorted(p.name for p in Path("logs/exp").iterdir()) == ["version_4", "version_5"]
    kinds = sorted(p.name.split(".")[0] for p in Path("logs/exp/version_5").iterdir())
    assert kinds == ["checkpoints", "events", "metrics"]
    assert trainer.log_dir == loggers[0].log_dir


def test_the_folder_is_decided_once(regression, make_loader, make_trainer) -> None:
    logger = CSVLogger("logs", "exp")
    trainer = make_trainer(logger=logger)
    module = regression()
    trainer.fit(module, make_loader(2))
    trainer.test(module, make_loader(2), verbose=False)

    assert [p.name for p in Path("logs/exp").iterdir()] == ["version_0"]


def test_another_folder_still_shares_the_number(regression, make_loader, make_trainer) -> None:
    Path("a/exp/version_7").mkdir(parents=True)
    loggers = [CSVLogger("a", "exp"), CSVLogger("b", "exp"), CSVLogger("c", version="own")]
    make_trainer(logger=loggers).fit(regression(), make_loader(2))

    assert [logger.log_dir for logger in loggers] == [
        "a/exp/version_8",
        "b/exp/version_8",
        "c/lightning_logs/own",
    ]


class Bare(Broken):
    """No more than Lightning asks for."""

    name = "bare"  # type: ignore[assignment]

    def __init__(self, version: Any, save_dir: str | None = None) -> None:
        super().__init__()
        self.place = version, save_dir

    version = property(lambda self: self.place[0])  # type: ignore[assignment]
    save_dir = property(lambda self: self.place[1])  # type: ignore[assignment]


def test_runs_of_a_logger_of_ones_own_have_a_folder_each(
    regression, make_loader, make_trainer
) -> None:
    for logger in (Bare("a"), Bare(2), Bare("c", "mine")):
        trainer = make_trainer(logger=logger, enable_checkpointing=True, default_root_dir="root")
        trainer.fit(regression(), make_loader(2))

    folders = sorted(str(p.parent) for p in Path().rglob("*.ckpt"))
    places = ("mine/bare/c", "root/bare/a", "root/bare/version_2")
    assert folders == [f"{place}/checkpoints" for place in places]
    assert trainer.log_dir == "mine/bare/c"
    assert make_trainer(logger=Bare(None), default_root_dir="root").log_dir == "root/bare"
    again = make_trainer(logger=Bare(3), enable_checkpointing=True, default_root_dir="root")
    with pytest.warns(UserWarning, match="now saves into .*version_3"):
        again.fit(regression(), make_loader(2), ckpt_path="last")  # the newest of its runs
    assert "root/bare/version_2/" in again.ckpt_path


@pytest.mark.parametrize("method", ["log_metrics", "finalize", "after_save_checkpoint"])
def test_a_logger_that_fails_is_named_once_and_training_goes_on(
    method: str, regression, make_loader, make_trainer, recorder
) -> None:
    broken = Broken(method)
    trainer = make_trainer(
        logger=[broken, recorder],
        max_epochs=3,
        callbacks=ModelCheckpoint("saved"),
        enable_checkpointing=True,
    )
    module = regression()
    with pytest.warns(UserWarning, match="Broken") as caught:
        trainer.fit(module, make_loader(3))
    trainer.validate(module, make_loader(3), verbose=False)  # it fails again, and nobody says so

    assert trainer.global_step == 9
    assert len(recorder.values("loss")) == 9 and recorder.ended == ["success", "success"]
    messages = [str(w.message) for w in caught if "Broken" in str(w.message)]
    assert len(messages) == 1
    assert f"Broken.{method} failed" in messages[0] and "No space left" in messages[0]


def test_a_logger_that_fails_before_training_stops_it(
    regression, make_loader, make_trainer
) -> None:
    class Configured(regression):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()

    trainer = make_trainer(logger=Broken("log_hyperparams"))
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(Configured(), make_loader(2))
    assert trainer.global_step == 0


def test_a_failed_run_is_told_to_every_logger(
    regression, make_loader, make_trainer, recorder
) -> None:
    class Failing(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="Broken.finalize"):
        make_trainer(logger=[Broken("finalize"), recorder]).fit(Failing(), make_loader(3))
    assert recorder.ended == ["failed"]
    assert recorder.steps("loss") == [0, 1]
