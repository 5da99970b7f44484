"""LightningModule: a network together with how it is trained, evaluated and used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from scaffold_runtime import settings
from scaffold_runtime.data import DataHooks, evaluation_mode, move_data_to_device
from scaffold_runtime.errors import MisconfigurationException, StepError, warn
from scaffold_runtime.hparams import WithHyperparameters
from scaffold_runtime.optim import LightningOptimizer, parameters_of, step_scheduler

if TYPE_CHECKING:
    from scaffold_runtime.metrics import Metrics
    from scaffold_runtime.trainer import Trainer


class LightningModule(WithHyperparameters, DataHooks, nn.Module):
    """A network with its steps and optimizers.

    Write `training_step` (return the loss) and `configure_optimizers`; add `validation_step`,
    `test_step`, `predict_step` and hooks as needed. The trainer does the rest.
    """

    example_input_array: Any = None
    strict_loading: bool = True
    automatic_optimization: bool = True
    _trainer: Trainer | None = None
    _metrics: Metrics | None = None
    _divider: str | None = None  # what sharded the weights, if something did

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nn.Module.__init__(self)

    # -- from the trainer -----------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        """The trainer this module is attached to.

        Raises:
            RuntimeError: before the module is given to one.
        """
        if self._trainer is None:
            raise RuntimeError(f"{type(self).__name__} is not attached to a `Trainer`.")
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self._trainer = trainer
        for child in self.children():
            if isinstance(child, LightningModule):
                child.trainer = trainer

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        for tensors in (self.parameters(), self.buffers()):
            for tensor in tensors:
                return tensor.device
        return self._trainer.device if self._trainer is not None else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating point weight."""
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
        return torch.get_default_dtype()

    @property
    def on_gpu(self) -> bool:
        """Whether the parameters are on a GPU."""
        return self.device.type == "cuda"

    @property
    def current_epoch(self) -> int:
        """Finished training epochs; 0 without a trainer."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps taken; 0 without a trainer."""
        return self._trainer.global_step if self._trainer is not None else 0

    @property
    def global_rank(self) -> int:
        """Rank of this process among all."""
        return self._trainer.global_rank if self._trainer is not None else 0

    @property
    def local_rank(self) -> int:
        """Rank of this process on its machine."""
        return self._trainer.local_rank if self._trainer is not None else 0

    @property
    def logger(self) -> Any:
        """The first logger of the trainer, or None."""
        return self._trainer.logger if self._trainer is not None else None

    @property
    def loggers(self) -> list[Any]:
        """The trainer's loggers."""
        return self._trainer.loggers if self._trainer is not None else []

    # -- what you write -------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; also what `predict_step` does by default."""
        return super().forward(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of one batch, a dict with key "loss", or None to skip the batch."""
        raise NotImplementedError

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one validation batch; log what matters."""
        raise NotImplementedError

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one test batch; log what matters."""
        raise NotImplementedError

    def predict_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the prediction for one batch; the module's `forward` unless overridden."""
        try:
            return self(batch)
        except (AttributeError, TypeError) as error:
            kind = type(batch).__name__
            if kind not in ("list", "tuple") or kind not in str(error):
                raise  # an error inside `forward`
            raise StepError(
                f"{type(self).__name__}.forward cannot take the batch as the loader gives it, a {kind} "
                f"({error}). Define `predict_step(self, batch, batch_idx)`, which takes what it needs of it."
            ) from error

    def configure_optimizers(self) -> Any:
        """Return optimizers and schedulers, in any of the forms described in `optim.py`."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Create large layers here, on the right device and in the right precision. May be called more than once."""

    def configure_callbacks(self) -> Any:
        """Return callbacks that this module needs; one of the same type replaces the trainer's."""
        return []

    # -- hooks, in the order in which a fit first calls them --------------------------------------

    def on_fit_start(self) -> None:
        """The model is on its device and the optimizers exist."""

    def on_train_start(self) -> None:
        """Training begins, after the sanity check."""

    def on_train_epoch_start(self) -> None:
        """A training epoch begins."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """A batch is about to be trained on; return -1 to skip the rest of the epoch."""
        return None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch was trained on; `outputs` holds what `training_step` returned, detached."""

    def on_train_epoch_end(self) -> None:
        """A training epoch ends, after its validation."""

    def on_train_end(self) -> None:
        """The last epoch has ended."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Before backward of the loss."""

    def on_after_backward(self) -> None:
        """After backward: gradients are available."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete and unscaled, not yet clipped."""

    def on_validation_model_zero_grad(self) -> None:
        """Free gradients before validation inside fit."""
        self.zero_grad()

    def on_validation_model_eval(self) -> None:
        """Switch to evaluation mode before validation."""
        self.eval()

    def on_validation_start(self) -> None:
        """Validation begins."""

    def on_validation_epoch_start(self) -> None:
        """A pass over the validation data begins."""

    def on_validation_batch_start(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch is about to be evaluated."""

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch was evaluated."""

    def on_validation_epoch_end(self) -> None:
        """A pass over the validation data ends; metrics may still be logged."""

    def on_validation_end(self) -> None:
        """Validation ends, its metrics are final."""

    def on_validation_model_train(self) -> None:
        """Switch back to training mode after validation."""
        self.train()

    def on_test_model_eval(self) -> None:
        """Switch to evaluation mode before testing."""
        self.eval()

    def on_test_start(self) -> None:
        """Testing begins."""

    def on_test_epoch_start(self) -> None:
        """A pass over the test data begins."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch is about to be evaluated."""

    def on_test_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch was evaluated."""

    def on_test_epoch_end(self) -> None:
        """A pass over the test data ends; metrics may still be logged."""

    def on_test_end(self) -> None:
        """Testing ends, its metrics are final."""

    def on_test_model_train(self) -> None:
        """Switch back to training mode after testing."""
        self.train()

    def on_predict_model_eval(self) -> None:
        """Switch to evaluation mode before prediction."""
        self.eval()

    def on_predict_start(self) -> None:
        """Prediction begins."""

    def on_predict_epoch_start(self) -> None:
        """A pass over the prediction data begins."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch is about to be predicted."""

    def on_predict_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch was predicted."""

    def on_predict_epoch_end(self) -> None:
        """A pass over the prediction data ends."""

    def on_predict_end(self) -> None:
        """Prediction ends."""

    def on_predict_model_train(self) -> None:
        """Switch back to training mode after prediction."""
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is complete and about to be written; add to it if you must."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint was read and is about to be applied."""

    def on_fit_end(self) -> None:
        """Training is over, nothing is torn down yet."""

    # -- logging --------------------------------------------------------------------------------

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a scalar: a number, a one-element tensor, or a torchmetrics Metric.

        In `training_step` and batch hooks the default is `on_step=True`, elsewhere `on_epoch=True`; with both,
        `name_step` and `name_epoch` are written. Epoch values are reduced with `reduce_fx` ("mean",
        "sum", "min", "max"), means weighted by `batch_size` (taken from the batch if not given).
        The value stays on the device until the next log step, so nothing waits for the device.

        Raises:
            MisconfigurationException: where logging is not possible, or if the same name is logged
                with other options.
        """
        if self._metrics is None:
            _not_logged(type(self).__name__, self._trainer)
            return
        options = (prog_bar, logger, on_step, on_epoch, reduce_fx, sync_dist, add_dataloader_idx)
        self._metrics.log(name, value, options, batch_size, rank_zero_only)

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log several scalars with the same options; see `log`."""
        for name, value in dictionary.items():
            self.log(
                name,
                value,
                prog_bar,
                logger,
                on_step,
                on_epoch,
                reduce_fx,
                sync_dist=sync_dist,
                add_dataloader_idx=add_dataloader_idx,
                batch_size=batch_size,
                rank_zero_only=rank_zero_only,
            )

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on rank 0 only, without breaking the progress bar."""
        self.trainer.print(*args, **kwargs)

    # -- optimization ---------------------------------------------------------------------------

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of them, for manual optimization."""
        made = self.trainer.manual_optimizers if use_pl_optimizer else self.trainer.optimizers
        return made[0] if len(made) == 1 else list(made)

    def lr_schedulers(self) -> Any:
        """The scheduler, the list of them, or None, for manual optimization."""
        made = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return (made[0] if len(made) == 1 else made) if made else None

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run backward on the loss; override it to do so in another way."""
        loss.backward(*args, **kwargs)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """In manual optimization, call this instead of `loss.backward()`: it scales the loss and calls hooks."""
        if self.automatic_optimization:
            raise MisconfigurationException(
                "`manual_backward` is for manual optimization: set `self.automatic_optimization = False` "
                "in `__init__`, or return the loss from `training_step` instead."
            )
        self.trainer._live().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step the optimizer; an override must call `optimizer.step(closure=optimizer_closure)`."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear gradients; override it to do so in another way."""
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler; override it for schedulers with another signature."""
        step_scheduler(scheduler, metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of one optimizer; override it to clip in another way."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients by "norm" (the default) or by "value"; None: the Trainer's setting.

        Raises:
            MisconfigurationException: if it contradicts the Trainer's setting.
        """
        limit = _clip_setting("gradient_clip_val", gradient_clip_val, self.trainer)
        algorithm = _clip_setting("gradient_clip_algorithm", gradient_clip_algorithm, self.trainer)
        if limit is None:
            return
        settings.clipping(limit, algorithm)
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        prepared = self.trainer._live().prepared
        prepared.unscale(inner)
        if limit:
            prepared.clip(parameters_of(inner), limit, algorithm or "norm")

    def toggle_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Let only the parameters of `optimizer` require gradients, until `untoggle_optimizer`."""
        own = set(map(id, parameters_of(optimizer)))
        made = self.trainer.optimizers
        kept = {p: p.requires_grad for each in made for p in parameters_of(each)}
        for parameter in kept:
            if id(parameter) not in own:
                parameter.requires_grad = False
        self.__dict__["_toggled"] = kept

    def untoggle_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Undo `toggle_optimizer`."""
        for parameter, required in self.__dict__.pop("_toggled", {}).items():
            parameter.requires_grad = required

    @contextmanager
    def toggled_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> Iterator[None]:
        """`toggle_optimizer` for the length of a `with` block."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    # -- the rest -------------------------------------------------------------------------------

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors and numbers of all processes, stacked along a new first dimension; tensors as they are with
        one process."""
        if self._metrics is not None and self._metrics.in_step_alone():
            raise StepError(
                "all_gather was called in a step where processes have different numbers of batches, or take some "
                "again, so one would hang. Keep what is to be gathered, and gather it when the epoch ends: "
                "`self.trainer.strategy.gather(x)` gives a list."
            )
        on_device = partial(torch.as_tensor, device=self.device)
        tensors = tree_map_only((Tensor, bool, int, float), on_device, data)
        return self.trainer.strategy.all_gather(tensors, group, sync_grads)

    def freeze(self) -> None:
        """Stop training: no gradients, evaluation mode."""
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Undo `freeze`."""
        self.requires_grad_(True)
        self.train()

    @torch.no_grad()
    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export to ONNX with `input_sample`, or `example_input_array` if none is given.

        Raises:
            MisconfigurationException: if there is neither.
        """
        sample = self.example_input_array if input_sample is None else input_sample
        if sample is None:
            raise MisconfigurationException(
                "to_onnx needs an input: pass `input_sample` or set `example_input_array`."
            )
        sample = move_data_to_device(sample, self.device)
        arguments = sample if isinstance(sample, tuple) else (sample,)
        with evaluation_mode(self):
            return torch.onnx.export(self, arguments, file_path, **kwargs)

    def to_torchscript(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error: torch replaces TorchScript by `torch.export`."""
        raise MisconfigurationException(
            f"{type(self).__name__} has no `to_torchscript`: use `torch.export.export(model, (sample,))` or `to_onnx`."
        )

    def to_tensorrt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise an error: TensorRT reads what `to_onnx` writes."""
        raise MisconfigurationException(
            f"{type(self).__name__} has no `to_tensorrt`: use `to_onnx`, whose file TensorRT reads, or torch_tensorrt."
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trainer when pickled or copied, and compiled methods, which are bound to this module."""
        state = {**self.__dict__, "_trainer": None, "_metrics": None}
        compiled = {name for name in state if hasattr(state[name], "_torchdynamo_orig_callable")}
        return {k: v for k, v in state.items() if k not in compiled or not hasattr(type(self), k)}


def _clip_setting(setting: str, given: Any, trainer: Trainer) -> Any:
    """The value given to `clip_gradients`, or else the trainer's own setting."""
    told = getattr(trainer, setting)
    if given is not None and told is not None and given != told:
        raise MisconfigurationException(
            f"clip_gradients({setting}={given!r}) and Trainer({setting}={told!r}) differ: leave one of them out."
        )
    return told if given is None else given


def _not_logged(owner: str, trainer: Trainer | None) -> None:
    why = "without a trainer" if trainer is None else "outside of a run"
    if trainer is not None and trainer.barebones:
        why = "under Trainer(barebones=True)"
    elif trainer is not None and trainer.fn is not None:
        raise MisconfigurationException(
            f"`{owner}.log` was called, which is a submodule; only the module that is trained can log. Call "
            "its `log`, or pass it on: `self.part.log = self.log`."
        )
    warn(f"`{owner}.log` was called {why}, so nothing is logged.")
