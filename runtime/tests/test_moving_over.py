"""What public code of Lightning's does beyond its documented names: it works here, or says what to write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric, Metric

from scaffold_runtime import Callback, LightningModule
from scaffold_runtime.callbacks import (
    BasePredictionWriter,
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from scaffold_runtime.callbacks.progress.progress_bar import get_standard_metrics
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import Logger
from scaffold_runtime.trainer.states import TrainerStatus
from scaffold_runtime.utilities import CombinedLoader
from scaffold_runtime.utilities.memory import is_oom_error
from scaffold_runtime.utilities.model_helpers import is_overridden
from scaffold_runtime.utilities.parsing import get_init_args
from scaffold_runtime.utilities.rank_zero import WarningCache, rank_prefixed_message

ATTRIBUTES = """
    pl.callbacks.early_stopping.EarlyStopping pl.callbacks.progress.TQDMProgressBar pl.core.module.LightningModule
    pl.loggers.tensorboard.TensorBoardLogger pl.profilers.pytorch.PyTorchProfiler pl.strategies.ddp.DDPStrategy
    pl.trainer.states.TrainerFn pl.utilities.rank_zero.rank_zero_only pl.utilities.types.STEP_OUTPUT
    pl.pytorch.callbacks.ModelCheckpoint pl.pytorch.Trainer pl.strategies.FSDPStrategy
"""


@pytest.mark.parametrize("path", ATTRIBUTES.split())
def test_modules_are_there_without_being_imported(path: str) -> None:
    script = f"import scaffold_runtime as pl; {path}"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_helpers_that_other_packages_import(recwarn: Any) -> None:
    class Own(LightningModule):
        def __init__(self, width: int, *, rate: float = 0.1, **others: Any) -> None:
            super().__init__()
            self.given = get_init_args(sys._getframe())

        def training_step(self, batch: Any, batch_idx: int) -> None: ...

    assert Own(3, name="a").given == {"width": 3, "rate": 0.1, "name": "a"}
    assert is_overridden("training_step", Own(3)) and not is_overridden("test_step", Own(3))
    assert not is_overridden("on_fit_start", None)
    assert is_overridden("training_step", Own(3), parent=torch.nn.Module)
    with pytest.raises(MisconfigurationException, match="got a int, which is no module"):
        is_overridden("real", 1)

    assert is_oom_error(RuntimeError("CUDA out of memory.")) and not is_oom_error(RuntimeError())
    assert (
        rank_prefixed_message("a", 1) == "[rank: 1] a" and rank_prefixed_message("a", None) == "a"
    )
    said = WarningCache()
    for _ in range(2):
        said.warn("here")
    assert [(w.filename, str(w.message)) for w in recwarn] == [(__file__, "here")]


# -- what is logged -------------------------------------------------------------------------------


def test_a_metric_reset_in_the_hook_was_computed_before(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Resetting(regression):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mean.update(torch.tensor(float(batch_idx)))
            self.log("mean", self.mean, on_epoch=True)

        def on_validation_epoch_end(self) -> None:
            self.mean.reset()

    module, trainer = Resetting(), make_trainer(max_epochs=2)
    assert trainer.validate(module, make_loader(3), verbose=False) == [{"mean": 1.0}]
    trainer.fit(module, make_loader(1), make_loader(5))
    assert trainer.callback_metrics["mean"] == 2.0


def test_what_evaluation_leaves_can_be_trained_with(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Keeping(regression):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[torch.Tensor] = []
            self.by_name: dict[str, torch.Tensor] = {}
            self.unused = torch.nn.LazyBatchNorm1d()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.kept.append(self(batch[0]))
            self.last = self.by_name["last"] = self.kept[-1]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + (self.net[2].bias * self.kept[0]).sum()

    module = Keeping()
    make_trainer().validate(module, make_loader(2), verbose=False)
    assert module.last is module.by_name["last"] is module.kept[-1]
    make_trainer().fit(module, make_loader(2))


def test_logged_metrics_are_values_of_their_own(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Moving(regression):
        def on_train_start(self) -> None:
            self.large = torch.zeros(1000)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 0:
                self.log("first", self.large[0])
            else:
                self.large += 1
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(logger=recorder)
    trainer.fit(Moving(), make_loader(3))
    value = trainer.logged_metrics["first"]
    assert value == 0 and value.untyped_storage().nbytes() == 4


def test_logged_metrics_are_the_newest_of_each_name(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Both(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("unseen", 1.0, logger=False)
            self.log("both", float(batch_idx), on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

    seen: dict[str, dict[str, Any]] = {}

    def note(name: str) -> Any:
        return lambda trainer, module: seen.setdefault(name, dict(trainer.logged_metrics))

    callback = LambdaCallback(
        on_validation_epoch_end=note("validation"), on_train_epoch_end=note("train")
    )
    options: dict[str, Any] = {"log_every_n_steps": 50, "num_sanity_val_steps": 0}
    trainer = make_trainer(logger=recorder, callbacks=callback, **options)
    trainer.fit(Both(), make_loader(3), make_loader(2))

    assert set(seen["validation"]) == {"val_loss", "loss", "both_step"}
    assert seen["train"]["both_epoch"] == 1.0 and seen["train"]["both_step"] == 2.0
    assert set(trainer.logged_metrics) == {"val_loss", "loss", "both_step", "both_epoch"}
    assert all(isinstance(value, torch.Tensor) for value in trainer.logged_metrics.values())


# -- optimizers -----------------------------------------------------------------------------------


def test_the_length_of_an_epoch_is_known_when_optimizers_are_made(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Counting(regression):
        def configure_optimizers(self) -> Any:
            self.trainer.fit_loop.setup_data()
            self.steps = len(self.trainer.train_dataloader) * self.trainer.max_epochs
            return super().configure_optimizers()

    module = Counting()
    make_trainer(max_epochs=2).fit(module, make_loader(3))
    assert module.steps == 6


@pytest.mark.parametrize("validates", [True, False])
def test_whether_there_is_validation_is_known_when_optimizers_are_made(
    validates: bool, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Asking(regression):
        def configure_optimizers(self) -> Any:
            source = self.trainer.fit_loop.epoch_loop.val_loop._data_source
            self.validates = source.is_defined()
            return super().configure_optimizers()

    module = Asking()
    make_trainer().fit(module, make_loader(1), make_loader(1) if validates else None)
    assert module.validates is validates


@pytest.mark.parametrize("way", ["set", "anew"])
def test_other_optimizers_take_over_within_a_fit(
    way: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Staged(regression):
        whole = False

        def configure_optimizers(self) -> Any:
            part = self if self.whole else self.net[2]
            return torch.optim.SGD(part.parameters(), lr=0.1)

    class Unfreeze(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                assert torch.equal(pl_module.net[0].weight, first)
                pl_module.whole = True
                if way == "set":
                    trainer.optimizers = [pl_module.configure_optimizers()]
                else:
                    trainer.strategy.setup_optimizers(trainer)

    module = Staged()
    first = module.net[0].weight.detach().clone()
    trainer = make_trainer(max_epochs=2, callbacks=Unfreeze())
    trainer.fit(module, make_loader(2))

    assert not torch.equal(module.net[0].weight, first)
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == 4


@pytest.mark.parametrize("name", ["model", "optimizers", "precision_plugin", "save_checkpoint"])
def test_what_the_trainer_has_is_not_looked_for_in_its_strategy(
    name: str, make_trainer: Any
) -> None:
    strategy = make_trainer().strategy
    with pytest.raises(AttributeError, match=rf"Strategy has no `{name}`: use `trainer\.{name}"):
        getattr(strategy, name)
    if name == "optimizers":
        with pytest.raises(AttributeError, match="which may be set"):
            strategy.optimizers = []
    else:  # a class of somebody's own may keep one
        setattr(strategy, name, "own")
        assert getattr(strategy, name) == "own"
    assert not hasattr(make_trainer().fit_loop, "epoch_progress")


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        (lambda p: [], "no list of optimizers"),
        (lambda p: ["adam"], "no list of optimizers"),
        (lambda p: [torch.optim.SGD(p, 0.1), torch.optim.SGD(p, 0.1)], "several need manual"),
        (lambda p: [torch.optim.LBFGS(p)], "a step with LBFGS is another one"),
    ],
)
def test_what_cannot_take_over_is_refused(
    others: Any, reason: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    def replace(trainer: Any, module: Any) -> None:
        trainer.optimizers = others(list(module.parameters()))

    for hook, said in (("setup", "no optimizers yet"), ("on_train_start", reason)):
        arguments: dict[str, Any] = {hook: lambda t, m, stage=None: replace(t, m)}
        trainer = make_trainer(callbacks=LambdaCallback(**arguments))
        with pytest.raises(MisconfigurationException, match=said):
            trainer.fit(regression(), make_loader(1))


@pytest.mark.parametrize("emptied", ["optimizer_states", "both"])
def test_a_checkpoint_without_optimizer_states_begins_with_fresh_ones(
    emptied: str, regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Reset(regression):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["optimizer_states"] = []
            if emptied == "both":
                checkpoint["lr_schedulers"] = []
                checkpoint["epoch"] = checkpoint["global_step"] = 0

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

        def on_train_start(self) -> None:
            self.began = (self.trainer.current_epoch, len(self.optimizers().optimizer.state))

    trainer = make_trainer(max_epochs=2)
    trainer.fit(Reset(), make_loader(3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module, trainer = Reset(), make_trainer(max_epochs=3)
    trainer.fit(module, make_loader(3), ckpt_path=tmp_path / "a.ckpt")

    assert module.began == (0 if emptied == "both" else 2, 0)
    assert trainer.global_step == 9
    assert len(module.optimizers().optimizer.state) == 4  # also after the fit


@pytest.mark.parametrize("shape", [lambda a, b: [a], lambda a, b: {"x": a, "y": b}, lambda a, b: a])
def test_loaders_are_shown_as_they_were_given(
    shape: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Several(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch = batch["x"] if isinstance(batch, dict) else batch
            return super().training_step(batch[0] if len(batch) == 1 else batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    given = shape(make_loader(2), make_loader(2))
    trainer = make_trainer()
    trainer.fit(Several(), given, given)
    for shown in (trainer.train_dataloader, trainer.val_dataloaders):
        assert type(shown) is type(given)
        assert shown == given
    assert trainer.test_dataloaders is None


def test_loaders_that_are_combined_are_shown_as_what_is_in_them(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Together(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch["x"], batch_idx)

    given = {"x": make_loader(2), "y": make_loader(1)}
    trainer = make_trainer()
    trainer.fit(Together(), make_loader(1), CombinedLoader(given, "min_size"))
    assert trainer.val_dataloaders == given


def test_a_run_that_fails_is_interrupted_when_callbacks_hear_of_it(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    statuses = []

    class Fails(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            statuses.append(trainer.state.status)
            raise ZeroDivisionError

        def on_exception(self, trainer: Any, *_: Any) -> None:
            statuses.append(trainer.state.status)

    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=Fails()).fit(regression(), make_loader(1))
    assert statuses == [TrainerStatus.RUNNING, TrainerStatus.INTERRUPTED]


def test_a_logger_takes_metrics_by_name(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Turned(Logger):
        name, version, rows = "turned", 0, list[Any]()

        def log_metrics(self, step: int | None = None, *, metrics: dict[str, float]) -> None:
            self.rows.append((step, sorted(metrics)))

        def log_hyperparams(self, params: Any) -> None: ...

    make_trainer(logger=Turned(), log_every_n_steps=1).fit(regression(), make_loader(1))
    assert Turned.rows == [(0, ["epoch", "loss"])] and Turned().group_separator == "/"


def test_the_default_checkpoint_is_there_in_a_fast_dev_run(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(fast_dev_run=True, enable_checkpointing=True, default_root_dir=tmp_path)
    trainer.fit(regression(), make_loader(1))
    assert trainer.checkpoint_callback.best_model_path == ""
    assert not list(tmp_path.iterdir())


def test_callback_metrics_are_floats(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    class Counting(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log_dict({"count": torch.tensor(3), "right": torch.tensor(True), "plain": 2})
            return super().training_step(batch, batch_idx)

    trainer = make_trainer()
    trainer.fit(Counting(), make_loader(1))
    kinds = {trainer.callback_metrics[name].dtype for name in ("count", "right", "plain")}
    assert kinds == {torch.float32}


def test_callbacks_of_other_packages_see_whether_there_are_several_processes(
    make_trainer: Any,
) -> None:
    connector = make_trainer()._accelerator_connector
    assert (connector.is_distributed, connector.use_distributed_sampler) == (False, True)


def test_callbacks_of_other_packages_log_where_the_trainer_does(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Own(Callback):
        def __init__(self) -> None:
            self.steps: dict[str, list[int]] = {}

        def note(self, name: str, trainer: Any) -> None:
            if trainer._logger_connector.should_update_logs:
                step = trainer.fit_loop.epoch_loop._batches_that_stepped
                self.steps.setdefault(name, []).append(step)

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.note("before", trainer)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.note("after", trainer)

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            self.steps.setdefault("epoch", []).append(trainer.fit_loop._batches_that_stepped)

    own = Own()
    make_trainer(max_epochs=2, log_every_n_steps=2, callbacks=own, logger=recorder).fit(
        regression(), make_loader(3)
    )
    logged = [step for step, _ in recorder.rows]
    assert logged == [1, 3, 5] and own.steps == {"before": logged, "after": logged, "epoch": [2, 5]}


# -- what subclasses of callbacks override --------------------------------------------------------


def test_early_stopping_may_wait_for_some_epochs(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Patient(EarlyStopping):
        def _run_early_stopping_check(self, trainer: Any) -> None:
            if trainer.current_epoch >= 3:
                super()._run_early_stopping_check(trainer)

    class Deaf(EarlyStopping):
        def _should_skip_check(self, trainer: Any) -> bool:
            return True

    class Decided(EarlyStopping):
        def _evaluate_stopping_criteria(self, current: torch.Tensor) -> tuple[bool, str | None]:
            assert self.monitor_op(current, torch.tensor(torch.inf))
            return True, "because I say so"

    def epochs(kind: Any) -> int:
        stopping = kind("val_loss", patience=1, min_delta=10.0)
        trainer = make_trainer(max_epochs=6, callbacks=stopping)
        trainer.fit(regression(), make_loader(1), make_loader(1))
        return int(trainer.current_epoch)

    class Copied(EarlyStopping):
        def _run_early_stopping_check(self, trainer: Any) -> None:
            logs = trainer.callback_metrics
            if trainer.fast_dev_run or not self._validate_condition_metric(logs):
                return
            current = logs[self.monitor].squeeze()
            should_stop, reason = self._evaluate_stopping_criteria(current)
            should_stop = trainer.strategy.reduce_boolean_decision(should_stop, all=False)
            trainer.should_stop = trainer.should_stop or should_stop
            if should_stop:
                self.stopped_epoch = trainer.current_epoch
            if reason and self.verbose:
                self._log_info(trainer, reason, self.log_rank_zero_only)

    counts = [epochs(kind) for kind in (EarlyStopping, Patient, Deaf, Decided, Copied)]
    assert counts == [2, 5, 6, 1, 2]


def test_model_checkpoint_may_write_its_own_files(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Weights(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            weights = trainer.lightning_module.state_dict()
            Path(filepath).parent.mkdir(parents=True, exist_ok=True)
            torch.save(weights, filepath)

    checkpoint = Weights(tmp_path, monitor="val_loss", save_top_k=2, save_last=True)
    make_trainer(max_epochs=3, callbacks=checkpoint, enable_checkpointing=True).fit(
        regression(), make_loader(2), make_loader(1)
    )

    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt", "last.ckpt"
    ]  # fmt: skip
    assert set(torch.load(checkpoint.best_model_path)) == set(regression().state_dict())


def test_an_own_save_keeps_the_rest(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Loud(ModelCheckpoint):
        written = 0

        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            self.written += 1
            super()._save_checkpoint(trainer, filepath)

    checkpoint = Loud(tmp_path, save_last="link")
    checkpoint._every_n_epochs = 2
    make_trainer(max_epochs=4, callbacks=checkpoint, enable_checkpointing=True).fit(
        regression(), make_loader(1)
    )
    assert checkpoint.written == 2
    assert (tmp_path / "last.ckpt").is_symlink()
    with pytest.warns(match="async_save has no effect"):
        Loud(async_save=True)


def test_model_checkpoint_may_decide_when_and_what_in_its_own_hooks(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Copied(ModelCheckpoint):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if self._should_skip_saving_checkpoint(trainer):
                return
            if self._should_save_on_train_epoch_end(trainer):
                candidates = self._monitor_candidates(trainer)
                self._save_topk_checkpoint(trainer, candidates)
                self._save_last_checkpoint(trainer, candidates)

        on_validation_end = None

    class InValidation(ModelCheckpoint):
        def _should_save_on_train_epoch_end(self, trainer: Any) -> bool:
            return False

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not self._should_skip_saving_checkpoint(trainer):
                self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    class Late(ModelCheckpoint):
        def check_monitor_top_k(self, trainer: Any, current: Any = None) -> bool:
            return trainer.current_epoch > 0 and super().check_monitor_top_k(trainer, current)

    def files(kind: type[ModelCheckpoint], **arguments: Any) -> list[str]:
        checkpoint = kind(tmp_path / kind.__name__, **arguments)
        trainer = make_trainer(max_epochs=2, callbacks=checkpoint, enable_checkpointing=True)
        trainer.fit(regression(), make_loader(2), make_loader(1))
        return sorted(file.name for file in (tmp_path / kind.__name__).iterdir())

    assert files(Copied, save_last=True) == ["epoch=1-step=4.ckpt", "last.ckpt"]
    both = ["epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt"]
    assert files(InValidation, monitor="val_loss", save_top_k=2) == both
    assert files(Late, monitor="val_loss", save_top_k=2) == both[1:]


def test_a_name_may_need_what_a_subclass_sets_after_its_base(tmp_path: Path) -> None:
    class Tagged(ModelCheckpoint):
        def __init__(self, tag: str, **others: Any) -> None:
            super().__init__(**others)
            self.tag = tag

        def format_checkpoint_name(self, *arguments: Any, **others: Any) -> str:
            return f"{self.tag}-{Path(super().format_checkpoint_name(*arguments, **others)).name}"

    assert Tagged("a").format_checkpoint_name({"epoch": 1, "step": 2}) == "a-epoch=1-step=2.ckpt"


def test_model_checkpoint_may_forgive_a_missing_monitor(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Forgiving(ModelCheckpoint):
        def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: Any) -> None:
            if self.monitor in monitor_candidates:
                self._save_monitor_checkpoint(trainer, monitor_candidates)

    class Sometimes(regression):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                self.log("rare", 1.0)

    checkpoint = Forgiving(tmp_path, monitor="rare", save_on_train_epoch_end=True)
    trainer = make_trainer(max_epochs=3, callbacks=checkpoint, enable_checkpointing=True)
    trainer.fit(Sometimes(), make_loader(2))

    assert Path(checkpoint.best_model_path).name == "epoch=1-step=4.ckpt"


def test_model_checkpoint_may_name_the_best_in_its_own_way(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Folders(ModelCheckpoint):
        def _update_best_and_save(
            self, current: torch.Tensor, trainer: Any, monitor_candidates: dict[str, Any]
        ) -> None:
            super()._update_best_and_save(current, trainer, monitor_candidates)
            assert current == monitor_candidates["rising"]
            self.best_model_path = self.best_model_path.removesuffix(".ckpt")

        def on_save_checkpoint(self, trainer: Any, *arguments: Any) -> None:
            name = self.format_checkpoint_name(self._monitor_candidates(trainer))
            Path(name.removesuffix(".ckpt")).mkdir()

    class Rising(regression):
        def on_train_epoch_end(self) -> None:
            self.log("rising", float(self.current_epoch))

    checkpoint = Folders(tmp_path, monitor="rising", filename="{epoch}", save_top_k=2)
    trainer = make_trainer(max_epochs=3, callbacks=checkpoint, enable_checkpointing=True)
    trainer.fit(Rising(), make_loader(1))

    assert checkpoint.best_model_path == str(tmp_path / "epoch=0")
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"epoch=0.ckpt", "epoch=1.ckpt"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"epoch=0", "epoch=1"}


def test_model_checkpoint_may_remove_more_than_the_file(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Beside(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            Path(filepath).with_suffix(".onnx").touch()

        def _remove_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._remove_checkpoint(trainer, filepath)
            Path(filepath).with_suffix(".onnx").unlink()

    checkpoint = Beside(tmp_path, filename="{epoch}")
    make_trainer(max_epochs=3, callbacks=checkpoint, enable_checkpointing=True).fit(
        regression(), make_loader(1)
    )

    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=2.ckpt", "epoch=2.onnx"]


def test_metrics_of_an_older_torchmetrics_are_saved(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delattr(Metric, "metric_state")  # which came later
    module, trainer = regression(), make_trainer(max_epochs=1)
    module.mean = MeanMetric()
    trainer.fit(module, make_loader(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["transient"]["metrics"]
    assert saved["mean"]["states"].keys() == {"mean_value", "weight"}


def test_a_method_that_nobody_calls_is_said(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Named(LearningRateMonitor):
        def _get_optimizer_stats(self, optimizer: Any, names: list[str]) -> dict[str, float]:
            return {}

    class Helped(LearningRateMonitor):
        def on_train_start(self, *arguments: Any) -> None:
            self.values = [self._help(value) for value in (1, 2)]

        def _help(self, value: int) -> int:
            return value

    trainer = make_trainer(logger=recorder, callbacks=Named())
    with pytest.warns(
        match=r"nobody calls `Named\._get_optimizer_stats`: LearningRateMonitor has no"
    ):
        trainer.fit(regression(), make_loader(1))
    make_trainer(logger=recorder, callbacks=Helped()).fit(regression(), make_loader(1))


def test_a_monitor_of_rates_may_use_them(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Stops(LearningRateMonitor):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            rates = self._extract_stats(trainer, "any")
            assert rates == {"lr-SGD": 0.05} and "lr-SGD" in trainer.callback_metrics
            trainer.should_stop = max(rates.values()) < 0.1

    trainer = make_trainer(max_epochs=3, callbacks=Stops(), logger=recorder)
    trainer.fit(regression(), make_loader(1))
    assert trainer.current_epoch == 1


def test_optimizers_cannot_be_set_outside_of_a_fit(make_trainer: Any) -> None:
    with pytest.raises(MisconfigurationException, match="no run is open"):
        make_trainer().optimizers = []


# -- progress bars and writers of other packages --------------------------------------------------


def test_a_bar_of_another_package_draws_alone(
    regression: Any, make_loader: Any, make_trainer: Any, capsys: Any
) -> None:
    class Epochs(ProgressBar):
        def __init__(self, refresh_rate: int = 1) -> None:
            super().__init__()
            self._refresh_rate = refresh_rate

        @property
        def refresh_rate(self) -> int:
            return self._refresh_rate

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            shown = {**get_standard_metrics(trainer), **self.get_metrics(trainer, pl_module)}
            self.print(f"epoch {trainer.current_epoch} {shown}")

    bar = Epochs()
    make_trainer(callbacks=bar, enable_progress_bar=True, limit_val_batches=0).fit(
        regression(), make_loader(2)
    )
    assert capsys.readouterr().out == "epoch 0 {}\n"


@pytest.mark.parametrize("interval", ["batch", "epoch", "batch_and_epoch"])
def test_a_writer_that_asks_when_it_writes(interval: str) -> None:
    when = BasePredictionWriter(interval).interval
    assert when == interval
    assert (when.on_batch, when.on_epoch) == ("batch" in interval, "epoch" in interval)
