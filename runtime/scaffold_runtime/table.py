"""The hook table of a run: the overridden hooks, as bound calls.

Before a run starts, `build_table` makes one tuple of bound calls per hook (callbacks in order, then the module,
then checkpoint callbacks), so a hook nobody overrides costs a loop over `()`. A hook that would never be called,
or would fail when called, is refused.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import CodeType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.hooks import Callback, hook_names, overridden
from scaffold_runtime.module import LightningModule

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

Owner = Callback | LightningModule | LightningDataModule
BASES = (Callback, LightningModule, LightningDataModule)
HOOKS = {name for base in BASES for name in hook_names(base)}

# Hooks of older Lightning versions, and what replaces them.
REMOVED_HOOKS = {
    "training_epoch_end": "on_train_epoch_end",
    "validation_epoch_end": "on_validation_epoch_end",
    "test_epoch_end": "on_test_epoch_end",
    "training_step_end": "training_step",
    "validation_step_end": "validation_step",
    "on_epoch_start": "on_train_epoch_start",
    "on_epoch_end": "on_train_epoch_end",
    "on_batch_start": "on_train_batch_start",
    "on_batch_end": "on_train_batch_end",
    "on_pretrain_routine_start": "on_fit_start",
    "on_keyboard_interrupt": "on_exception",
    "on_init_start": "setup",
    "on_init_end": "setup",
}
SYNONYMS = {"val": "validation", "begin": "start"}

# Methods of Lightning's callbacks that people override, but this package never calls.
OF_CALLBACKS = {
    "_find_names_from_schedulers", "_get_lr_stat", "_get_optimizer_stats", "_format_checkpoint_name",
    "_link_checkpoint", "_should_remove_checkpoint", "_improvement_message", "_init_bar", "_update_bar", "_log_stats",
    "_get_and_log_device_stats", "update_parameters", "transfer_weights", "reset_batch_norm_and_save_state",
}  # fmt: skip
# The same for strategies and precisions.
OF_STRATEGIES = {
    "training_step", "validation_step", "test_step", "predict_step", "backward", "optimizer_step", "setup", "teardown",
    "setup_environment", "setup_distributed", "configure_ddp", "model_to_device", "batch_to_device",
    "process_dataloader", "optimizer_state", "save_checkpoint", "load_checkpoint", "remove_checkpoint",
    "lightning_module_state_dict", "load_model_state_dict", "load_optimizer_state_dict", "tensor_init_context",
    "model_sharded_context", "pre_backward", "post_backward", "post_training_step", "on_train_start", "on_train_end",
    "on_train_batch_start", "on_validation_start", "on_validation_end", "on_test_start", "on_test_end",
    "on_predict_start", "on_predict_end",
}  # fmt: skip
OF_PRECISIONS = {
    "optimizer_step", "convert_input", "convert_output", "clip_gradients", "clip_grad_by_norm", "clip_grad_by_value",
    "pre_backward", "post_backward", "module_init_context", "tensor_init_context", "train_step_context",
    "val_step_context", "test_step_context", "predict_step_context", "connect", "main_params", "on_save_checkpoint",
    "on_load_checkpoint",
}  # fmt: skip


class Calls(tuple[Callable[..., Any], ...]):
    """The calls of one hook, in order."""

    def __call__(self, *arguments: Any) -> None:
        for call in self:
            call(*arguments)


HookTable = SimpleNamespace  # hook name -> calls


def build_table(run: Run) -> HookTable:
    """One tuple of calls per hook, of overridden hooks only, wrapped by the profiler.

    Raises:
        MisconfigurationException: for a misspelt or removed hook, or one with wrong arguments.
    """
    callbacks, module, wrap = run.callbacks, run.module, run.trainer.profiler.wrap
    early = [callback for callback in callbacks if callback not in run.checkpoints]
    everybody: list[Owner] = [*early, module, *run.checkpoints]
    for each in everybody:
        check_hooks(each)

    def calls(name: str, owners: Iterable[Owner]) -> Calls:
        found = []
        for owner in owners:
            base = base_of(owner)
            if hasattr(base, name) and overridden(name, owner, base):
                call = getattr(owner, name)
                if isinstance(owner, Callback):
                    call = partial(call, run.trainer, module)
                found.append(wrap(f"{type(owner).__name__}.{name}", call))
        return Calls(found)

    table = {name: calls(name, everybody) for name in hook_names(Callback)}
    monitors = [callback for callback in callbacks if callback.runs_last]
    others = [callback for callback in callbacks if not callback.runs_last]
    table["on_train_epoch_end"] = calls("on_train_epoch_end", [*others, module])
    table["on_train_epoch_end_monitors"] = calls("on_train_epoch_end", monitors)
    table["on_load_checkpoint"] = calls("on_load_checkpoint", [module])
    table["on_load_checkpoint_callbacks"] = calls("on_load_checkpoint", callbacks)
    return HookTable(**table)


def base_of(owner: object) -> type:
    """Which of `BASES` it derives from."""
    return next(base for base in BASES if isinstance(owner, base))


def check_hooks(owner: Owner) -> None:
    """Refuse hooks of `owner` that would never be called, or would fail when called.

    Raises:
        MisconfigurationException: for the first of them.
    """
    kind, base = type(owner), base_of(owner)
    for name in dir(kind):
        meant = None if hasattr(base, name) else _meant(name)
        if not meant or not hasattr(base, meant) or not callable(getattr(kind, name, None)):
            continue
        # A class that has both methods, or calls this one itself, uses it for something other than a trainer.
        both = name.startswith("on_") and overridden(meant, owner, base)
        if both or mentions(owner, name) or _inherits_from_elsewhere(kind, base, name):
            continue
        raise MisconfigurationException(
            f"`{kind.__name__}.{name}` would never be called: there is no such hook. Rename it to `{meant}`."
        )
    if isinstance(owner, Callback):
        warn_uncalled(owner, OF_CALLBACKS)
    for name in hook_names(base):
        if overridden(name, owner, base):
            _check_hook(owner, name, base)


def warn_uncalled(owner: object, theirs: set[str]) -> None:
    """Warn of methods that override one of Lightning's class (listed in `theirs`) which our class does not have."""
    kinds = type(owner).__mro__
    ours = next((k for k in kinds if k.__module__.startswith("scaffold_runtime.")), Callback)
    for name, _ in methods_of(owner) if ours is not Callback else ():
        if name in theirs and not hasattr(ours, name) and not mentions(owner, name):
            warn(
                f"nobody calls `{type(owner).__name__}.{name}`: {ours.__name__} has no such method here."
            )


def _meant(name: str) -> str | None:
    """The hook that `name` is an old or misspelt name of; only close names, others may be the user's own methods."""
    if name in REMOVED_HOOKS or not name.startswith("on_"):
        return REMOVED_HOOKS.get(name)
    words = "_".join(SYNONYMS.get(word, word) for word in name.split("_"))
    return next(iter(difflib.get_close_matches(words, HOOKS, cutoff=0.9)), None)


def _inherits_from_elsewhere(kind: type, base: type, name: str) -> bool:
    """Whether the method comes from another framework's class, as in a callback written for two trainers."""
    others = (each for each in kind.__mro__ if not issubclass(each, base) and name in vars(each))
    return any(each.__module__.split(".")[0] != kind.__module__.split(".")[0] for each in others)


def mentions(owner: object, name: str) -> bool:
    """Whether another method of the user's classes refers to `name`."""
    return any(own != name and name in code.co_names for own, code in methods_of(owner))


def methods_of(owner: object) -> Iterator[tuple[str, CodeType]]:
    """The name and code object of each method of the user's classes."""
    for kind in type(owner).__mro__:
        if not kind.__module__.startswith(("scaffold_runtime.", "torch.", "builtins")):
            for name, value in vars(kind).items():
                if inspect.isfunction(value):
                    yield name, value.__code__


def _check_hook(owner: object, name: str, base: type) -> None:
    function, where = getattr(owner, name), f"{type(owner).__name__}.{name}"
    later = inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)
    if later or not callable(function):
        raise MisconfigurationException(
            f"`{where}` is {'async, or yields,' if later else repr(function)}, and not a function that can be called. "
            "Write `def` and return, or None to switch it off."
        )
    _, *arguments = inspect.signature(getattr(base, name)).parameters  # the first is `self`
    shortest = [argument for argument in arguments if argument != "dataloader_idx"]
    check_call(where, function, arguments, [len(shortest)])


def check_call(
    where: str, function: Callable[..., Any], receives: Sequence[str], counts: Sequence[int]
) -> None:
    """Refuse a function that cannot be called with the first N arguments of `receives`, for any N in `counts`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin or a mock without a signature: let the call decide
    for count in counts if "dataloader_iter" not in signature.parameters else ():
        with suppress(TypeError):
            signature.bind(*receives[:count])
            return
    some = ", of which it may leave out the last" * (len(counts) > 1)
    raise MisconfigurationException(
        f"`{where}{signature}` cannot be called: it receives ({', '.join(receives)}), by position{some}. "
        "Change its arguments to match."
    )
