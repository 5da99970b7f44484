"""Checks made before training starts, so that mistakes cost seconds and not hours."""

from __future__ import annotations

import difflib
import dis
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING

from scaffold_runtime.data import LightningDataModule, NoData
from scaffold_runtime.errors import MisconfigurationException, not_logged, warn
from scaffold_runtime.feed import METHODS, STAGES
from scaffold_runtime.hooks import Callback, Checkpoint, overridden
from scaffold_runtime.module import LightningModule
from scaffold_runtime.table import base_of, check_call, mentions, methods_of

if TYPE_CHECKING:
    from scaffold_runtime.run import Run
    from scaffold_runtime.trainer import Trainer


def check_run(run: Run) -> None:
    """Refuse a run that lacks a step, a loader or an optimizer, or whose parts contradict each other.

    Raises:
        MisconfigurationException: naming what is missing, and what to write.
    """
    name = type(run.module).__name__
    stage = STAGES[run.fn]
    step = "training_step" if stage == "train" else f"{stage}_step"
    if step != "predict_step" and not overridden(step, run.module, LightningModule):
        raise MisconfigurationException(
            f"trainer.{run.fn}() needs {name}.{step}: define `def {step}(self, batch, batch_idx)`."
            f"{_misspelt(run.module, step)}"
        )
    _check_arguments(run.module, step)
    if not run.feed.has(stage):
        raise MisconfigurationException(
            f"trainer.{run.fn}() has no data: pass a loader or a data module, or define `{METHODS[stage]}` in "
            f"{type(_data_owner(run)).__name__}."
        )
    if run.fn == "fit":
        _check_fit(run, name)
        _check_hyperparameters(run)
    _check_state_keys(run.callbacks)
    if run.module._divider not in (None, run.trainer.strategy.divider):
        raise MisconfigurationException(
            f"the weights of {name} were sharded by {run.module._divider} in an earlier run, and this process has only "
            "its shard. Save a checkpoint there, and load it into a new module by `load_from_checkpoint`."
        )


def _data_owner(run: Run) -> LightningModule | LightningDataModule:
    """The object that should define loaders, if none were passed."""
    return run.module if isinstance(run.datamodule, NoData) else run.datamodule


def _misspelt(owner: LightningModule | LightningDataModule, name: str) -> str:
    """A hint at a method of the user's own whose name is nearly `name`."""
    own = [method for method in dir(type(owner)) if not hasattr(LightningModule, method)]
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
    return f" It has a `{near[0]}`: is that it?" if near else ""


def _check_arguments(module: LightningModule, step: str) -> None:
    """Refuse a step that cannot be called with what steps receive."""
    receives = ["batch", "batch_idx", "dataloader_idx"][: 2 if step == "training_step" else 3]
    where, written = f"{type(module).__name__}.{step}", inspect.getattr_static(type(module), step)
    if inspect.isfunction(written) and written.__code__.co_varnames[:1] == ("batch",):
        raise MisconfigurationException(
            f"`{where}` lacks `self`: write `def {step}(self, batch, batch_idx)`."
        )
    check_call(where, getattr(module, step), receives, range(1, len(receives) + 1))


def _check_fit(run: Run, name: str) -> None:
    if not overridden("configure_optimizers", run.module, LightningModule):
        raise MisconfigurationException(
            f"{name} has no `configure_optimizers`: write one that returns an optimizer, "
            f"for instance `return torch.optim.Adam(self.parameters())`.{_misspelt(run.module, 'configure_optimizers')}"
        )
    run.validates = run.trainer.limit_val_batches != 0 and _can_validate(run)
    if run.validates:
        _check_arguments(run.module, "validation_step")
    trainer = run.trainer
    if trainer.max_epochs is None:
        trainer.max_epochs = 1000
        warn(
            "`max_epochs` was not set, so training stops after 1000 epochs. "
            "Set it, or max_epochs=-1 for no limit."
        )
    if not run.module.automatic_optimization:
        for argument, neutral in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
            if getattr(trainer, argument) != neutral:
                raise MisconfigurationException(
                    f"Trainer({argument}={getattr(trainer, argument)}) has no effect in manual optimization, "
                    f"which {name} uses. Leave it out and do it in `training_step` "
                    "(`self.clip_gradients(...)`, step every n-th batch)."
                )


def _can_validate(run: Run) -> bool:
    """Whether there are both a step and a loader; prints or warns if there is only one of them."""
    has_step = overridden("validation_step", run.module, LightningModule)
    has_loader = run.feed.has("validation")
    name = type(run.module).__name__
    if has_loader and not has_step:
        warn(
            f"there is a validation loader, but {name} has no `validation_step`, so nothing is validated: define it, "
            f"or leave the loader out.{_misspelt(run.module, 'validation_step')}"
        )
    if has_step and not has_loader:  # which may be intended
        near = _misspelt(_data_owner(run), "val_dataloader")
        run.trainer.print(f"Nothing is validated: there is no validation loader.{near}")
    return has_step and has_loader


def _check_hyperparameters(run: Run) -> None:
    """Warn now, not after an epoch, of hyperparameters that the run's checkpoints will not hold."""
    if not run.checkpoints or overridden("on_save_checkpoint", run.module, LightningModule):
        return  # the hook may still remove them
    for owner in (run.module, run.datamodule):
        kept = owner.hparams_to_save()
        plain = kept["hyper_parameters"]
        objects = {n: plain[n] for n in kept["hparams_made"] if isinstance(plain[n], str)}
        if objects:
            warn(
                f"of the hyperparameters of {type(owner).__name__}, {', '.join(objects.values())}, which no checkpoint "
                "holds: `load_from_checkpoint` will ask for them. If they need not be in `self.hparams`: "
                f"`self.save_hyperparameters(ignore={list(objects)})`."
            )


def _check_state_keys(callbacks: list[Callback]) -> None:
    seen: dict[str, Callback] = {}
    for callback in callbacks:
        stateful = overridden("state_dict", callback, Callback)
        if stateful and callback.state_key in seen:
            raise MisconfigurationException(
                f"two callbacks share the state key {callback.state_key!r}, so one would lose its state. "
                "Give them different arguments, or override `state_key`."
            )
        seen[callback.state_key] = callback


def check_logs(callback: Callback, trainer: Trainer) -> None:
    """Refuse a callback that only logs if there is no logger, unless a trial or benchmark switched loggers off."""
    if not trainer.loggers and not trainer.fast_dev_run and not trainer.barebones:
        raise MisconfigurationException(
            f"{type(callback).__name__} has nothing to log to: the trainer has logger=False."
        )


def check_whole(callback: Callback, trainer: Trainer) -> None:
    """Refuse a callback that averages full weights if each rank holds only a shard of them."""
    if trainer.strategy.divider:
        raise MisconfigurationException(
            f"{type(callback).__name__} averages whole weights, and under {type(trainer.strategy).__name__} no "
            "process has them. Use strategy='ddp', or leave the callback out."
        )


def check_monitors(run: Run, trained: bool = False) -> None:
    """Refuse a monitor that will never be logged. Names of validation are known after the sanity check, all others
    after the first training batch."""
    known = run.metrics.names("validation")
    early = not known if run.validates else not trained  # the sanity check may be switched off
    if _may_log_more(run) or early:
        return
    known |= run.metrics.names("train") if trained else set()
    known |= run.metrics.callback_values.keys()  # also what callbacks put there by themselves
    for callback, monitor in _monitors(run.callbacks):
        if isinstance(callback, Checkpoint) and monitor in ("epoch", "step"):
            continue
        ours = trained or monitor.startswith("val")
        if ours and monitor not in known and not _may_be_logged_later(run, monitor):
            raise not_logged(callback, monitor, known)


def warn_not_finite(step: int) -> None:
    """Warn that the loss became NaN or infinite, and say how to find out why."""
    warn(
        f"the training loss is not finite at step {step}. Lower the learning rate, clip gradients "
        "(Trainer(gradient_clip_val=1.0)), or find the operation with Trainer(detect_anomaly=True)."
    )


def _monitors(callbacks: list[Callback]) -> Iterator[tuple[Callback, str]]:
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None) if callback.runs_last else None
        if isinstance(monitor, str) and getattr(callback, "strict", True):
            yield callback, monitor


def _may_log_more(run: Run) -> bool:
    """Whether a hook that has not run yet may log, or logs only after the sanity check."""
    late = ("on_train_epoch_end", "on_train_epoch_start")
    return any(
        mentions(owner, "sanity_checking")
        or any(overridden(name, owner, base_of(owner)) for name in late)
        for owner in (run.module, *run.callbacks)
        if not type(owner).__module__.startswith("scaffold_runtime.")
    )


def _may_be_logged_later(run: Run, monitor: str) -> bool:
    """Whether the code of a user's hook or step can make this name, so that it may be logged later."""
    return any(
        _can_make_name(code, monitor) and not name.startswith("configure_")
        for owner in (run.module, *run.callbacks)
        for name, code in methods_of(owner)
    )


def _can_make_name(code: CodeType, name: str) -> bool:
    """Whether `name` is a constant in the code, or may come from its f-strings."""
    if name in code.co_consts:
        return True
    parts = [part for part in code.co_consts if isinstance(part, str) and len(part) > 1]
    joins = dis.opmap["BUILD_STRING"] in code.co_code[::2]
    return joins and any(name.startswith(part) or name.endswith(part) for part in parts)
