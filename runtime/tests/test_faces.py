"""Moving over is one line: Lightning's import paths lead to the same things here."""

from __future__ import annotations

import gc
import importlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import scaffold_runtime
from scaffold_runtime.demos.boring_classes import BoringDataModule, BoringModel
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.lazy import imported_when_used
from scaffold_runtime.utilities import (
    grad_norm,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
)

# What people import, by the path they write after `lightning.pytorch`.
PATHS = {
    "": "Trainer LightningModule LightningDataModule Callback seed_everything",
    "accelerators": "Accelerator CPUAccelerator CUDAAccelerator MPSAccelerator find_usable_cuda_devices",
    "callbacks": "Callback Checkpoint EarlyStopping LearningRateMonitor ModelCheckpoint ModelSummary ProgressBar Timer",
    "callbacks.callback": "Callback",
    "callbacks.checkpoint": "Checkpoint",
    "callbacks.early_stopping": "EarlyStopping",
    "callbacks.lr_monitor": "LearningRateMonitor",
    "callbacks.model_checkpoint": "ModelCheckpoint",
    "callbacks.model_summary": "ModelSummary",
    "callbacks.progress": "ProgressBar RichProgressBar TQDMProgressBar",
    "callbacks.progress.progress_bar": "ProgressBar get_standard_metrics",
    "callbacks.progress.rich_progress": "RichProgressBar RichProgressBarTheme",
    "callbacks.progress.tqdm_progress": "TQDMProgressBar Tqdm",
    "callbacks.timer": "Timer",
    "core": "LightningModule LightningDataModule",
    "core.datamodule": "LightningDataModule",
    "core.mixins": "HyperparametersMixin",
    "core.module": "LightningModule",
    "core.saving": "load_hparams_from_yaml save_hparams_to_yaml",
    "core.optimizer": "LightningOptimizer",
    "demos": "BoringModel BoringDataModule DemoModel",
    "demos.boring_classes": "DemoModel BoringModel BoringDataModule RandomDataset RandomIterableDataset",
    "loggers": "Logger CSVLogger TensorBoardLogger",
    "loggers.csv_logs": "CSVLogger",
    "loggers.logger": "Logger rank_zero_experiment",
    "loggers.tensorboard": "TensorBoardLogger",
    "plugins": "MixedPrecision HalfPrecision DoublePrecision Precision CheckpointIO TorchCheckpointIO "
    "AsyncCheckpointIO ClusterEnvironment",
    "plugins.environments": "ClusterEnvironment KubeflowEnvironment LSFEnvironment LightningEnvironment "
    "MPIEnvironment SLURMEnvironment TorchElasticEnvironment",
    "plugins.io": "CheckpointIO TorchCheckpointIO AsyncCheckpointIO",
    "plugins.precision": "MixedPrecision HalfPrecision DoublePrecision Precision",
    "profilers": "Profiler PassThroughProfiler SimpleProfiler AdvancedProfiler PyTorchProfiler",
    "profilers.profiler": "Profiler",
    "strategies": "Strategy SingleDeviceStrategy DDPStrategy FSDPStrategy",
    "strategies.ddp": "DDPStrategy",
    "strategies.single_device": "SingleDeviceStrategy",
    "strategies.strategy": "Strategy",
    "trainer": "Trainer",
    "trainer.states": "TrainerFn RunningStage TrainerState TrainerStatus",
    "trainer.trainer": "Trainer",
    "tuner": "Tuner",
    "tuner.tuning": "Tuner",
    "utilities": "CombinedLoader AttributeDict grad_norm move_data_to_device rank_zero_only rank_zero_info",
    "utilities.combined_loader": "CombinedLoader",
    "utilities.exceptions": "MisconfigurationException",
    "utilities.grads": "grad_norm",
    "utilities.memory": "garbage_collection_cuda is_oom_error",
    "utilities.model_helpers": "is_overridden",
    "utilities.model_summary": "ModelSummary summarize",
    "utilities.parsing": "AttributeDict get_init_args",
    "utilities.rank_zero": "rank_zero_only rank_zero_info rank_zero_warn rank_zero_deprecation "
    "rank_prefixed_message WarningCache",
    "utilities.seed": "isolate_rng seed_everything",
    "utilities.warnings": "PossibleUserWarning disable_possible_user_warnings",
    "utilities.types": "STEP_OUTPUT EVAL_DATALOADERS TRAIN_DATALOADERS OptimizerLRScheduler LRSchedulerTypeUnion "
    "LRSchedulerConfig _EVALUATE_OUTPUT _PREDICT_OUTPUT _METRIC _PATH _DEVICE _MAP_LOCATION_TYPE",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_import_paths(path: str) -> None:
    module = importlib.import_module(f"scaffold_runtime.{path}".rstrip("."))
    for name in PATHS[path].split():
        assert getattr(module, name) is not None, name


def test_submodules_are_attributes() -> None:
    script = "import scaffold_runtime as pl; pl.callbacks.ModelCheckpoint; pl.utilities.grad_norm; pl.plugins.Precision"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, scaffold_runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("collects", [True, False])
def test_nothing_looks_for_garbage_while_a_name_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "inside.py").write_text("import gc\nLOOKS = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    look_up = imported_when_used("asked", {"LOOKS": "inside"})
    gc.enable() if collects else gc.disable()
    try:
        assert look_up("LOOKS") is False
        assert gc.isenabled() is collects
        with pytest.raises(ModuleNotFoundError):
            imported_when_used("asked", {"absent": "absent"})("absent")
        assert gc.isenabled() is collects
    finally:
        gc.enable()
        for name in [name for name in sys.modules if name.partition(".")[0] == "asked"]:
            del sys.modules[name]


def test_same_thing_under_both_names() -> None:
    for name in ("callbacks.callback", "core", "utilities.exceptions"):
        importlib.import_module(f"scaffold_runtime.{name}")
    assert scaffold_runtime.callbacks.callback.Callback is scaffold_runtime.Callback
    assert scaffold_runtime.core.LightningModule is scaffold_runtime.LightningModule
    assert scaffold_runtime.utilities.exceptions.MisconfigurationException is MisconfigurationException  # fmt: skip


# -- the boring model -----------------------------------------------------------------------------


def test_boring_model(make_trainer: Any) -> None:
    trainer = make_trainer(fast_dev_run=3)
    model = BoringModel()
    for function in (trainer.fit, trainer.validate, trainer.test, trainer.predict):
        function(model)
        function(model, datamodule=BoringDataModule())


# -- helpers --------------------------------------------------------------------------------------


def test_grad_norm() -> None:
    model = torch.nn.Linear(2, 1)
    assert grad_norm(model, 2) == {}
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    norms = {name: float(value) for name, value in grad_norm(model, norm_type=2).items()}
    assert norms == {"grad_2.0_norm/weight": 5, "grad_2.0_norm/bias": 12, "grad_2.0_norm_total": 13}
    assert float(grad_norm(model, "inf")["grad_inf_norm_total"]) == 12
    with pytest.raises(MisconfigurationException, match="above 0"):
        grad_norm(model, 0)


def test_grad_norm_in_a_hook(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.log_dict(grad_norm(self.net[0], norm_type=2))

    make_trainer(logger=recorder).fit(Module(), make_loader(2))
    assert len(recorder.values("grad_2.0_norm_total")) == 2


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_rank_zero_only(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @rank_zero_only
    def work() -> str:
        return "done"

    assert work() == "done"
    monkeypatch.setenv(variable, "1")
    assert work() is None


def test_rank_zero_messages(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, logger="scaffold_runtime"):
        rank_zero_info("started with %d", 3)
    assert caplog.messages == ["started with 3"]
    with pytest.warns(UserWarning, match="careful") as warned:
        rank_zero_warn("careful")
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="old"):
        rank_zero_deprecation("old")
    monkeypatch.setenv("RANK", "1")
    rank_zero_warn("nobody hears this")
