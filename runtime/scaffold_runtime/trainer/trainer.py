"""Trainer: the settings of a run, and the methods fit, validate, test and predict."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from scaffold_runtime import settings
from scaffold_runtime.accelerators import (
    Accelerator,
    free_memory,
    parse_devices,
    select_accelerator,
)
from scaffold_runtime.callbacks import default_callbacks
from scaffold_runtime.callbacks.early_stopping import EarlyStopping
from scaffold_runtime.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
from scaffold_runtime.callbacks.progress.progress_bar import ProgressBar, results_table
from scaffold_runtime.checkpoint.choose import Restore
from scaffold_runtime.checkpoint.folder import save
from scaffold_runtime.checkpoint.state import check_stored, collect
from scaffold_runtime.data import LightningDataModule, NoData
from scaffold_runtime.elsewhere import bring_back, run_here
from scaffold_runtime.empty import NoInit
from scaffold_runtime.errors import MisconfigurationException, Moved, check_local, warn
from scaffold_runtime.feed import METHODS, STAGES
from scaffold_runtime.hooks import Callback, Checkpoint, overridden
from scaffold_runtime.loggers import Logger, select_loggers
from scaffold_runtime.loggers.logger import run_name
from scaffold_runtime.loggers.silent import SilentLogger
from scaffold_runtime.loops.evaluate import evaluate
from scaffold_runtime.loops.fit import fit
from scaffold_runtime.loops.predict import predict
from scaffold_runtime.metrics import Metrics
from scaffold_runtime.module import LightningModule
from scaffold_runtime.optim import LightningOptimizer, LRSchedulerConfig
from scaffold_runtime.plugins import Plugin, TorchCheckpointIO, sort_plugins
from scaffold_runtime.precision import select_precision
from scaffold_runtime.profilers import Profiler, select_profiler
from scaffold_runtime.progress import NEVER, UNDER_WAY, Progress
from scaffold_runtime.run import Run
from scaffold_runtime.session import make_optimizers, open_run, open_trial, take_optimizers
from scaffold_runtime.strategies import Strategy, select_strategy, started_elsewhere
from scaffold_runtime.table import OF_PRECISIONS, OF_STRATEGIES, warn_uncalled
from scaffold_runtime.trainer.inputs import loaders_and_data, module_of, path_of
from scaffold_runtime.trainer.removed import explained
from scaffold_runtime.trainer.states import RunningStage, TrainerFn, TrainerState, TrainerStatus


class Trainer:
    """Trains, validates, tests and predicts with a `LightningModule`.

    Args:
        accelerator: "auto", "cpu", "gpu", "cuda", "mps", or an Accelerator.
        strategy: "auto", "ddp", "fsdp", "deepspeed", "xla", one of their variants, or a Strategy.
        devices: how many devices, or which: a number, a list, "0,1", -1 for all, "auto".
        num_nodes: number of machines.
        precision: "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", or 16, 32, 64, "bf16".
        logger: True (TensorBoard if installed, else CSV), False, a Logger, or several.
        callbacks: one or several callbacks.
        fast_dev_run: try every step with this many batches (True: 1), without logs and checkpoints.
        max_epochs: stop after this many epochs; -1 for no limit; 1000 if neither `max_steps` nor `max_time` is given.
        min_epochs: train at least this many epochs.
        max_steps: stop after this many optimizer steps; -1 for no limit.
        min_steps: take at least this many optimizer steps.
        max_time: stop after this duration: "DD:HH:MM:SS", a timedelta, or a dict of its arguments.
        limit_train_batches: batches per epoch: a number (int) or a fraction (float).
        limit_val_batches: the same for validation.
        limit_test_batches: the same for testing.
        limit_predict_batches: the same for prediction.
        overfit_batches: train on the same few batches, unshuffled, and validate on as many validation batches.
        val_check_interval: validate every N batches (int), every fraction of an epoch (float), or every duration.
        check_val_every_n_epoch: validate every N epochs; None: `val_check_interval` counts batches across epochs.
        num_sanity_val_steps: validation batches to run before training (sanity check); -1 for all.
        log_every_n_steps: log step values every N optimizer steps.
        enable_checkpointing: add a ModelCheckpoint if none is given.
        enable_progress_bar: show progress.
        enable_model_summary: print layers and parameter counts before training.
        accumulate_grad_batches: batches to accumulate gradients over per optimizer step; "auto" splits a
            batch that runs out of memory into micro-batches, with the same gradients.
        gradient_clip_val: clip gradients to this value; None for no clipping.
        gradient_clip_algorithm: "norm" (of all gradients together) or "value" (of each element).
        deterministic: use deterministic algorithms; "warn" warns if there is none, in place of an error.
        benchmark: let cuDNN pick the fastest algorithms (`torch.backends.cudnn.benchmark`).
        inference_mode: validate, test and predict under `torch.inference_mode`.
        use_distributed_sampler: shard the data over processes (DistributedSampler).
        profiler: "simple", "advanced", "pytorch", or a Profiler.
        detect_anomaly: name the operation that made a NaN in backward. Slow.
        barebones: switch off everything but training, to measure the loop.
        plugins: a Precision in place of `precision`, a ClusterEnvironment, a CheckpointIO, or several.
        sync_batchnorm: use SyncBatchNorm, which shares batch statistics between processes.
        reload_dataloaders_every_n_epochs: call `train_dataloader` etc. again every N epochs.
        default_root_dir: where logs and checkpoints go without a logger; the current folder.
        enable_autolog_hparams: log hyperparameters when a run starts.
        model_registry: accepted for compatibility with Lightning; there is no registry.

    Raises:
        MisconfigurationException: if an argument is wrong, or two contradict each other.
    """

    from_argparse_args = Moved(
        "`Trainer(**vars(args))`, with arguments of yours only, or LightningCLI"
    )
    add_argparse_args = Moved("LightningCLI, which knows all arguments")

    @explained
    def __init__(
        self,
        *,
        accelerator: Accelerator | str = "auto",
        strategy: Strategy | str = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: str | int | None = None,
        logger: bool | Logger | Iterable[Logger] | None = None,
        callbacks: list[Callback] | Callback | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int | Literal["auto"] = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Profiler | str | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Plugin | list[Plugin] | None = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | Path | None = None,
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
    ) -> None:
        self.accelerator = select_accelerator(accelerator)
        brought = sort_plugins(plugins, precision)
        devices, num_nodes = started_elsewhere(devices, settings.count("num_nodes", num_nodes, 1))
        self.device_ids, self.num_nodes = parse_devices(devices, self.accelerator), num_nodes
        self.strategy = select_strategy(
            strategy, self.accelerator, self.device_ids, num_nodes, brought.environment
        )
        self.precision_plugin = select_precision(brought.precision, self.strategy.root_device)
        warn_uncalled(self.strategy, OF_STRATEGIES)
        warn_uncalled(self.precision_plugin, OF_PRECISIONS)
        self.checkpoint_io = brought.checkpoint_io or TorchCheckpointIO()
        self.barebones = barebones
        if barebones:
            settings.check_barebones(
                logger=logger,
                enable_checkpointing=enable_checkpointing,
                enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary,
                num_sanity_val_steps=num_sanity_val_steps,
            )
            logger = enable_checkpointing = enable_progress_bar = enable_model_summary = False
            num_sanity_val_steps = 0
        self.fast_dev_run = settings.count("fast_dev_run", int(fast_dev_run), 0)
        if few := self.fast_dev_run:
            max_epochs, min_epochs, max_steps, min_steps = 1, None, few, None
            limit_train_batches = limit_val_batches = few
            limit_test_batches = limit_predict_batches = few
            val_check_interval, check_val_every_n_epoch, num_sanity_val_steps = 1.0, 1, 0
        limited = max_steps != -1 or max_time is not None
        self.max_epochs: int = settings.max_epochs(max_epochs, limited)
        if min_epochs is None and min_steps is not None:
            min_epochs = 1
        self.min_epochs = settings.count("min_epochs", min_epochs, 0, (None,))
        self.max_steps: int = settings.count("max_steps", max_steps, 0, (-1,))
        self.min_steps = settings.count("min_steps", min_steps, 0, (None,))
        self.limit_train_batches = settings.limit("limit_train_batches", limit_train_batches)
        self.limit_val_batches = settings.limit("limit_val_batches", limit_val_batches)
        self.limit_test_batches = settings.limit("limit_test_batches", limit_test_batches)
        self.limit_predict_batches = settings.limit("limit_predict_batches", limit_predict_batches)
        self.overfit_batches = settings.limit("overfit_batches", overfit_batches, 0.0)
        if self.overfit_batches:
            self.limit_train_batches = self.limit_val_batches = self.overfit_batches
        self.check_val_every_n_epoch = settings.count(
            "check_val_every_n_epoch", check_val_every_n_epoch, 1, (None,)
        )
        self.val_check_interval, self.val_check_seconds = settings.interval(
            val_check_interval, check_val_every_n_epoch
        )
        sanity_steps = 2 if num_sanity_val_steps is None else num_sanity_val_steps
        sanity_steps = -1 if sanity_steps == math.inf else sanity_steps
        self.num_sanity_val_steps: int = settings.count(
            "num_sanity_val_steps", sanity_steps, 0, (-1,)
        )
        log_steps = 50 if log_every_n_steps is None else log_every_n_steps
        self.log_every_n_steps: int = settings.count("log_every_n_steps", log_steps, 0) or NEVER
        self.accumulate_grad_batches: Any = settings.count(
            "accumulate_grad_batches", accumulate_grad_batches, 1, ("auto",)
        )
        settings.clipping(gradient_clip_val, gradient_clip_algorithm)
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.inference_mode = inference_mode
        self.use_distributed_sampler = use_distributed_sampler
        self.profiler = select_profiler(profiler)
        self.detect_anomaly = detect_anomaly
        self.sync_batchnorm = sync_batchnorm
        self.reload_dataloaders_every_n_epochs = settings.count(
            "reload_dataloaders_every_n_epochs", reload_dataloaders_every_n_epochs, 0
        )
        check_local("Trainer(default_root_dir)", default_root_dir)
        self.default_root_dir = os.path.expanduser(default_root_dir or Path.cwd())
        self.enable_autolog_hparams = enable_autolog_hparams
        self.deterministic, self.benchmark = deterministic, benchmark
        settings.set_determinism(deterministic, benchmark)

        loggers = select_loggers(logger, self.default_root_dir)
        self.loggers: list[Logger] = [] if fast_dev_run else loggers
        # `trainer.logger` in `fast_dev_run`, so that user code can still call it.
        self._stand_in = SilentLogger() if fast_dev_run and loggers else None
        self.callbacks: list[Callback] = default_callbacks(
            callbacks,
            max_time=max_time,
            checkpointing=enable_checkpointing is not False,
            progress_bar=enable_progress_bar is not False,
            summary=enable_model_summary is not False,
        )

        self.progress = Progress()
        self.metrics = Metrics()
        self.should_stop = False
        self.interrupted = False
        self.fn: str | None = None
        self.stage: str | None = None
        self._ckpt_path: str | None = None
        self._given_path: str | Path | None = None  # by `trainer.ckpt_path = ...`
        self.datamodule: LightningDataModule | None = None
        self._module: LightningModule | None = None
        self._run: Run | None = None  # the open run
        self._last_run: Run | None = None  # the open run, else the last one
        self._elsewhere_state = TrainerState()  # of a run in child processes
        self._last_fit: Run | None = None
        self.tries = False  # whether it is a `trial`

    # -- fit, validate, test, predict -----------------------------------------------------------

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
        restore: Literal["all", "weights", "optimizers"] = "all",
        restore_keys: str = "*",
        restore_strict: bool | None = None,
        restore_lr: float | None = None,
    ) -> None:
        """Train `model`.

        Args:
            model: what to train.
            train_dataloaders: a loader, a collection of loaders, or a data module.
            val_dataloaders: a loader or a list of them.
            datamodule: a data module, in place of loaders.
            ckpt_path: a checkpoint to resume from: a path, "last" or "best".
            weights_only: accepted for compatibility with Lightning; loading never runs code from a file.
            restore: what to load from the checkpoint: "all" resumes its run exactly; "weights", or "optimizers"
                (weights and optimizer states), start a new run, with learning rates as configured.
            restore_keys: with "weights", a pattern for the names to load, such as "encoder.*".
            restore_strict: raise an error for missing or unexpected keys; the module's `strict_loading`
                if None.
            restore_lr: a new learning rate, with "all" or "optimizers".

        Raises:
            ScaffoldRuntimeError: one of its subclasses, for mistakes in model, data or settings.
        """
        ckpt_path = ckpt_path or self._given_path
        choice = (restore, restore_keys, restore_strict, restore_lr)
        chosen = Restore(*choice)
        data = (train_dataloaders, val_dataloaders, datamodule)
        elsewhere = self._elsewhere("fit", model, *data, ckpt_path, None, *choice)
        if elsewhere is not None:
            elsewhere()
            return
        given, datamodule = loaders_and_data(
            datamodule, train=train_dataloaders, validation=val_dataloaders
        )
        run = Run(self, "fit", module_of(model), datamodule, given)
        run.restore, self.should_stop = chosen, False
        anomalies = torch.autograd.set_detect_anomaly(self.detect_anomaly)
        with anomalies, open_run(run, path_of(ckpt_path)), run.signals:
            fit(run)
            run.signals.leave_late(run)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Validate, and return the metrics, one dict per loader.

        Without `model`, the best checkpoint of the last fit is used.
        """
        return self._evaluate("validate", model, dataloaders, ckpt_path, verbose, datamodule)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Test, and return the metrics, one dict per loader.

        Without `model`, the best checkpoint of the last fit is used.
        """
        return self._evaluate("test", model, dataloaders, ckpt_path, verbose, datamodule)

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> list[Any] | None:
        """Predict, and return what `predict_step` returned, in order; a list per loader if there are several."""
        kept = return_predictions is not False
        return self._evaluate("predict", model, dataloaders, ckpt_path, kept, datamodule)

    def _evaluate(
        self,
        fn: str,
        model: LightningModule | None,
        dataloaders: Any,
        ckpt_path: str | Path | None,
        told: bool,
        datamodule: LightningDataModule | None,
    ) -> list[Any]:
        """Shared by validate, test and predict; `told`: whether to print results, or to return predictions."""
        ckpt_path = ckpt_path or self._given_path
        elsewhere = self._elsewhere(
            "_evaluate", fn, model, dataloaders, ckpt_path, told, datamodule
        )
        if elsewhere is not None:
            return elsewhere()  # type: ignore[no-any-return] # what the method returns
        stage = STAGES[fn]
        given, datamodule = loaders_and_data(datamodule, **{stage: dataloaders})
        module, path = self._model_and_path(model, ckpt_path)
        own = overridden(METHODS[stage], module, LightningModule)
        if datamodule is None and given[stage] is None and not own:
            datamodule = self.datamodule  # of an earlier call
        run = Run(self, fn, module, datamodule, given)
        with open_run(run, path):
            self.stage = stage
            if fn == "predict":
                return predict(run, told)  # type: ignore[return-value] # None if none is kept
            results = evaluate(run, stage)
        if told and any(results):
            self.print(results_table(results, stage))
        return results

    def _elsewhere(self, fn: str, *arguments: Any) -> Callable[[], Any] | None:
        """Start missing processes. Returns None if this process takes part in the run, else a call that runs all of
        it in child processes."""
        run = self.strategy.launch(partial(run_here, self, fn, arguments), fn == "fit")
        return None if run is None else lambda: bring_back(self, arguments, run())

    def _model_and_path(
        self, model: LightningModule | None, ckpt_path: str | Path | None
    ) -> tuple[LightningModule, str | None]:
        if model is not None:
            return module_of(model), path_of(ckpt_path)
        if self._module is None:
            raise MisconfigurationException(
                "there is no model: pass one, or call `trainer.fit(model)` before."
            )
        best = getattr(self.checkpoint_callback, "best_model_path", "")
        if ckpt_path is None and best:
            warn(
                'no model was passed, so the best checkpoint of the last fit is used. Pass ckpt_path="best" '
                "to say so, or the model to use its current weights."
            )
            ckpt_path = "best"
        return self._module, path_of(ckpt_path)

    # -- checkpoints, printing, building ----------------------------------------------------------

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Write a checkpoint of the run as it is now; all processes must call this.

        Raises:
            CheckpointError: if the file cannot be written, or if it lacks something that cannot be stored safely.
        """
        run = self._training_record()
        if run is None or run.module is not self._module:
            run = self._last_run
        if run is None:
            raise MisconfigurationException(
                "there is nothing to save: `save_checkpoint` needs a model that was attached by "
                "fit, validate, test or predict. Where they ran in processes of their own (ddp_spawn, ddp_fork, "
                "ddp_notebook), take the file of the ModelCheckpoint."
            )
        check_local("save_checkpoint(filepath)", filepath)
        write = partial(self.checkpoint_io.save_checkpoint, storage_options=storage_options)
        save(self.strategy, collect(run, bool(weights_only)), Path(filepath).expanduser(), write)
        check_stored(run, filepath)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on rank 0 only, without breaking the progress bar."""
        if not self.is_global_zero:
            return
        if self.progress_bar_callback is not None:
            self.progress_bar_callback.print(*args, **kwargs)
        else:
            print(*args, **kwargs)  # noqa: T201 - this is what the method is for

    @contextmanager
    def init_module(self, empty_init: bool | None = None) -> Any:
        """A context in which modules are created on the right device and in the right precision.

        With `empty_init` they are not initialised, for weights that are loaded into them. Where a strategy shards
        the weights they have no memory either (torch's "meta" device), until a run gives it to them part by part.
        """
        on_meta = empty_init and self.strategy.divides
        where = torch.device("meta") if on_meta else self.strategy.root_device
        with where, self.precision_plugin.init_context(), NoInit() if empty_init else nullcontext():
            yield

    # -- trials ----------------------------------------------------------------------------------

    def trial(self, callbacks: list[Callback], steps: int) -> Trainer:
        """A copy of this trainer for a trial of `steps` steps or batches: own counters and metrics, only these
        callbacks, no logs, no checkpoints, no output."""
        other = copy.copy(self)
        other.progress, other.metrics, other.profiler = Progress(), Metrics(), select_profiler(None)
        other.callbacks, other.loggers, other.tries = callbacks, [], True
        if self.loggers:
            other._stand_in = SilentLogger(SilentLogger.places_of(self.loggers[0]))
        other.max_steps, other.max_epochs, other.min_steps, other.min_epochs = steps, -1, None, None
        other.limit_val_batches = other.limit_test_batches = other.limit_predict_batches = steps
        other.check_val_every_n_epoch, other.val_check_interval = 1, 1.0
        other.val_check_seconds = None
        other.num_sanity_val_steps, other.log_every_n_steps = 0, NEVER
        other.should_stop, other._run, other._last_run = False, None, None
        return other

    def rehearse(self, callbacks: list[Callback], steps: int) -> None:
        """Inside a hook, before the loop starts: run the current function for `steps` steps in a `trial`.

        Changes of weights, random state and whatever else the steps touch are not undone.
        """
        try:
            with open_trial(self.trial(callbacks, steps), self._live()) as run:
                if run.fn == "fit":
                    fit(run)
                elif run.fn == "predict":
                    predict(run, keep=False)
                else:
                    evaluate(run, STAGES[run.fn])
        finally:
            free_memory()  # of the trial's optimizers, before others are made

    # -- a run opens and closes -------------------------------------------------------------------

    def open(self, run: Run) -> None:
        """A run begins: `session` calls this."""
        self._run, self._last_run, self.interrupted = run, run, False
        if run.fn == "fit":
            self._last_fit = run
        self._module, self.fn = run.module, run.fn
        if not isinstance(run.datamodule, NoData):
            self.datamodule = run.datamodule

    def close(self, run: Run) -> None:
        """A run has ended: `session` calls this."""
        self._run = self.fn = self.stage = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out runs when the trainer is pickled for another process."""
        return {**vars(self), "_run": None, "_last_run": None, "_last_fit": None}

    def _live(self) -> Run:
        if self._run is None:
            raise MisconfigurationException("no run is open: call this inside a step or a hook.")
        return self._run

    def _training_record(self) -> Run | None:
        """The last fit, to which optimizers and checkpoints belong even after a test; else the open run."""
        return self._last_fit or self._run

    # -- where a run is ---------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """Number of finished training epochs, which is the index of the current one."""
        return self.progress.epoch

    @property
    def global_step(self) -> int:
        """Optimizer steps taken; in manual optimization, batches in which an optimizer stepped."""
        return self.progress.step

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint that the last run started from. Set it as the default of runs without a `ckpt_path`."""
        return self._ckpt_path

    @ckpt_path.setter
    def ckpt_path(self, path: str | Path | None) -> None:
        self._given_path, self._ckpt_path = path, path_of(path)

    @property
    def fit_loop(self) -> Trainer:
        """The trainer itself: code written for Lightning sets `max_epochs` here, and `max_steps` on `epoch_loop`,
        between two fits."""
        return self

    epoch_loop = fit_loop

    @property
    def val_loop(self) -> SimpleNamespace:
        """For third-party code that asks whether there is validation data: `_data_source.is_defined()`."""
        return SimpleNamespace(
            _data_source=SimpleNamespace(is_defined=partial(self._live().feed.has, "validation"))
        )

    @property
    def _batches_that_stepped(self) -> int:
        """The x axis of third-party callbacks: in the hooks after a step, that step does not count yet."""
        progress = self.progress
        ending = progress.batch > 0 and progress.pending != UNDER_WAY
        return progress.step - (progress.updated if ending else 0)

    @property
    def _logger_connector(self) -> SimpleNamespace:
        """For third-party callbacks that ask whether the current batch is logged."""
        due = (self._batches_that_stepped + 1) % self.log_every_n_steps == 0
        return SimpleNamespace(should_update_logs=due or self.should_stop)

    @property
    def batch_idx(self) -> int:
        """The index of the current training batch, or of the last one when its step has ended."""
        progress = self.progress
        return progress.batch - (progress.pending != UNDER_WAY)

    @property
    def total_batch_idx(self) -> int:
        """`batch_idx`, counted over all epochs."""
        return self.progress.batches - (self.progress.pending != UNDER_WAY)

    epoch_progress = Moved("`trainer.progress`, whose `epoch` may be set before a fit")

    @property
    def _accelerator_connector(self) -> SimpleNamespace:
        """For third-party callbacks that ask whether there are several processes."""
        several, sampler = self.world_size > 1, self.use_distributed_sampler
        return SimpleNamespace(is_distributed=several, use_distributed_sampler=sampler)

    def setup_data(self) -> None:
        """Create the training loader now, so that `configure_optimizers` can know its length."""
        _ = self._live().feed.train

    @property
    def is_last_batch(self) -> bool:
        """Whether the current training batch is the last of its epoch."""
        run = self._training_record()
        return run is not None and run.is_last_batch

    @property
    def state(self) -> TrainerState:
        """What the trainer is doing, in Lightning's terms: `fn`, `stage`, `status`, and whether it has `finished`."""
        run = self._last_run
        going = TrainerStatus.RUNNING if self._run else TrainerStatus.FINISHED
        status = TrainerStatus.INTERRUPTED if self.interrupted else going
        stage = {"validation": "validate", "sanity": "sanity_check"}.get(
            self.stage or "", self.stage
        )
        if run is None:
            return self._elsewhere_state
        return TrainerState(status, TrainerFn(run.fn), RunningStage(stage) if stage else None)

    @property
    def training(self) -> bool:
        """Whether a training batch or epoch is going on."""
        return self.stage == "train"

    @property
    def validating(self) -> bool:
        """Whether validation is going on, in a fit or by itself."""
        return self.stage == "validation"

    @property
    def testing(self) -> bool:
        """Whether testing is going on."""
        return self.stage == "test"

    @property
    def predicting(self) -> bool:
        """Whether prediction is going on."""
        return self.stage == "predict"

    @property
    def sanity_checking(self) -> bool:
        """Whether the validation before training is going on."""
        return self.stage == "sanity"

    @property
    def evaluating(self) -> bool:
        """Whether validation, the sanity check or testing is going on."""
        return self.stage in ("validation", "sanity", "test")

    @property
    def validates_each_epoch(self) -> bool:
        """Whether validation, if there is one, comes once in every epoch, after its last batch."""
        last = self.val_check_interval == 1.0 and self.val_check_seconds is None
        return last and self.check_val_every_n_epoch == 1

    @property
    def validation_ahead(self) -> bool:
        """Whether this fit validates but has not done so yet, so that its metrics cannot be known."""
        run = self._last_run
        return run is not None and run.validates and not run.validated

    @property
    def num_training_batches(self) -> float:
        """Training batches in an epoch, after limits; infinity if the loader has no length."""
        run = self._training_record()
        train = run.feed.opened if run is not None else None
        return math.inf if train is None else train.length

    @property
    def num_val_batches(self) -> list[float]:
        """Batches of each validation loader, after limits."""
        return self._eval_batches("validation")

    @property
    def num_test_batches(self) -> list[float]:
        """Batches of each test loader, after limits."""
        return self._eval_batches("test")

    @property
    def num_predict_batches(self) -> list[float]:
        """Batches of each prediction loader, after limits."""
        return self._eval_batches("predict")

    @property
    def num_sanity_val_batches(self) -> list[float]:
        """Batches of each validation loader that the sanity check runs."""
        steps = self.num_sanity_val_steps
        return [n if steps == -1 else min(n, steps) for n in self.num_val_batches]

    def _eval_batches(self, stage: str) -> list[float]:
        run = self._last_run
        return run.feed.lengths_of(stage) if run is not None else []

    @property
    def estimated_stepping_batches(self) -> float:
        """Number of optimizer steps of the whole current or last fit, for learning rate schedulers.

        Raises:
            MisconfigurationException: before the first fit.
        """
        length = (self._training_record() or self._live()).feed.train.length
        limit: float = math.inf if self.max_steps == -1 else self.max_steps
        if length == math.inf or self.max_epochs == -1:
            return limit
        windows = self._windows()
        return min(sum(math.ceil(length / windows(e)) for e in range(self.max_epochs)), limit)

    def _windows(self) -> Callable[[int], int]:
        """A function from an epoch to its number of accumulated batches."""
        schedules = (c for c in self.callbacks if isinstance(c, GradientAccumulationScheduler))
        schedule = next(schedules, None)
        size = 1 if self.accumulate_grad_batches == "auto" else self.accumulate_grad_batches
        return (lambda epoch: size) if schedule is None else schedule.get_accumulate_grad_batches

    # -- parts ------------------------------------------------------------------------------------

    @property
    def lightning_module(self) -> LightningModule:
        """The module of the current or last run; None before the first."""
        return self._module  # type: ignore[return-value] # callers run after the first one

    model = lightning_module

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers of the current or last fit; a hook may set others, used from the next batch on."""
        run = self._training_record()
        return run.optimizers if run is not None else []

    @optimizers.setter
    def optimizers(self, optimizers: list[Optimizer]) -> None:
        run = self._live()
        if not run.optimizers:
            raise MisconfigurationException(
                "there are no optimizers yet, or `configure_optimizers` returned none, so they cannot be replaced: "
                "set others from `on_fit_start` on."
            )
        take_optimizers(run, list(optimizers))

    def make_optimizers(self) -> None:
        """Inside a fit: call `configure_optimizers` again, and continue with its optimizers and schedulers."""
        make_optimizers(self._live())

    @property
    def manual_optimizers(self) -> list[LightningOptimizer]:
        """The optimizers as `LightningModule.optimizers()` returns them."""
        return (self._training_record() or self._live()).manual_optimizers

    @property
    def lr_scheduler_configs(self) -> list[LRSchedulerConfig]:
        """The schedulers of the current or last fit."""
        run = self._training_record()
        return run.scheduler_configs if run is not None else []

    @property
    def train_dataloader(self) -> Any:
        """The training loader of the current or last fit, or several as they were given."""
        run = self._training_record()
        return None if run is None else run.feed.as_given("train")

    @property
    def val_dataloaders(self) -> Any:
        """The validation loader, or several as they were given."""
        return self._dataloaders("validation")

    @property
    def test_dataloaders(self) -> Any:
        """The test loader, or several as they were given."""
        return self._dataloaders("test")

    @property
    def predict_dataloaders(self) -> Any:
        """The prediction loader, or several as they were given."""
        return self._dataloaders("predict")

    def _dataloaders(self, stage: str) -> Any:
        run = self._last_run
        return None if run is None else run.feed.as_given(stage)

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """The newest value of everything logged, by name: what monitors see."""
        return self.metrics.callback_metrics()

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """The newest value of everything logged with `logger=True`, by the name loggers see."""
        return self.metrics.logged_metrics()

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """The newest values logged with `prog_bar=True`."""
        return self.metrics.progress_bar_metrics()

    @property
    def logger(self) -> Logger | None:
        """The first logger, if there is one; setting it replaces all. A silent one in `fast_dev_run`."""
        return self.loggers[0] if self.loggers else self._stand_in

    @logger.setter
    def logger(self, logger: Logger | None) -> None:
        self.loggers, self._stand_in = [logger] if logger is not None else [], None

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        """All callbacks that save checkpoints."""
        return [callback for callback in self.callbacks if isinstance(callback, Checkpoint)]

    @property
    def checkpoint_callback(self) -> Any:
        """The first callback that saves checkpoints."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[EarlyStopping]:
        """All EarlyStopping callbacks."""
        return [callback for callback in self.callbacks if isinstance(callback, EarlyStopping)]

    @property
    def early_stopping_callback(self) -> EarlyStopping | None:
        """The first EarlyStopping callback."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> ProgressBar | None:
        """The progress bar, if there is one."""
        return next((c for c in self.callbacks if isinstance(c, ProgressBar)), None)

    @property
    def precision(self) -> str:
        """The name of the precision, such as "bf16-mixed"."""
        return self.precision_plugin.precision

    @property
    def scaler(self) -> Any:
        """The gradient scaler of "16-mixed"; None otherwise."""
        return getattr(self.precision_plugin, "scaler", None)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.strategy.root_device

    @property
    def num_devices(self) -> int:
        """Number of devices on each machine."""
        return len(self.device_ids)

    @property
    def world_size(self) -> int:
        """Number of all processes."""
        return self.strategy.world_size

    @property
    def global_rank(self) -> int:
        """Rank of this process among all."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """Rank of this process on its machine."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """Rank of this machine."""
        return self.strategy.node_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this is rank 0 of all processes."""
        return self.strategy.is_global_zero

    # -- places -----------------------------------------------------------------------------------

    @property
    def log_dir(self) -> str:
        """The folder of this run: that of the first logger that has one, else one named after its version."""
        folder = next((logger.log_dir for logger in self.loggers if logger.root_dir), None)
        version = self.logger.version if self.logger and not folder else None
        return folder or str(Path(self.runs_dir, run_name(version)))

    @property
    def runs_dir(self) -> str:
        """The folder that holds the folders of runs, this one's and earlier ones'."""
        folder = next((logger.root_dir for logger in self.loggers if logger.root_dir), None)
        if folder or self.logger is None:
            return folder or self.default_root_dir
        place = self.logger.save_dir or self.default_root_dir
        return str(Path(place, self.logger.name or ""))
