"""The hooks: their one list, the Callback base class, and the table of those somebody overrides.

`HOOKS` is the contract that the loops, the documentation and the order test share. Before a run
starts, `build_table` makes one tuple of bound calls per hook (callbacks in order, then the module,
then checkpoint callbacks), so a hook nobody overrides costs a loop over `()`.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException, level_of_caller

if TYPE_CHECKING:
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.trainer import Trainer


@dataclass(frozen=True)
class Hook:
    """One hook: its name, the arguments after (trainer, module), and who may implement it."""

    name: str
    arguments: tuple[str, ...] = ()
    owners: str = "callback, module"


def _stage_hooks(stage: str) -> list[Hook]:
    index = () if stage == "train" else ("dataloader_idx",)
    return [
        Hook(f"on_{stage}_start"),
        Hook(f"on_{stage}_epoch_start"),
        Hook(f"on_{stage}_batch_start", ("batch", "batch_idx", *index)),
        Hook(f"on_{stage}_batch_end", ("outputs", "batch", "batch_idx", *index)),
        Hook(f"on_{stage}_epoch_end"),
        Hook(f"on_{stage}_end"),
    ]


HOOKS: tuple[Hook, ...] = (
    Hook("setup", ("stage",), "datamodule, callback, module"),
    Hook("on_fit_start"),
    Hook("on_sanity_check_start", owners="callback"),
    Hook("on_sanity_check_end", owners="callback"),
    *_stage_hooks("train"),
    Hook("on_before_zero_grad", ("optimizer",)),
    Hook("on_before_backward", ("loss",)),
    Hook("on_after_backward"),
    Hook("on_before_optimizer_step", ("optimizer",)),
    Hook("on_validation_model_zero_grad", owners="module"),
    *(
        hook
        for stage in ("validation", "test", "predict")
        for hook in (
            Hook(f"on_{stage}_model_eval", owners="module"),
            *_stage_hooks(stage),
            Hook(f"on_{stage}_model_train", owners="module"),
        )
    ),
    Hook("on_save_checkpoint", ("checkpoint",)),
    Hook("on_load_checkpoint", ("checkpoint",)),
    Hook("on_exception", ("exception",), "callback, datamodule"),
    Hook("on_fit_end"),
    Hook("teardown", ("stage",), "datamodule, callback, module"),
)
HOOK_NAMES = frozenset(hook.name for hook in HOOKS)

# Names older code may still carry, and what to write instead.
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


class Callback:
    """Something that happens beside training. Override the hooks you need, ignore the rest.

    Each hook receives the trainer and the module first. State to be saved in checkpoints goes
    through `state_dict` and `load_state_dict`, under `state_key`. `self.log` and `self.log_dict`
    work inside hooks as they do in a module.
    """

    runs_last: bool = False  # at the end of a training epoch, after the module and its metrics
    log: Callable[..., None]  # attached while a run is open
    log_dict: Callable[..., None]

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint; two callbacks must not share one."""
        return type(self).__qualname__

    def _generate_state_key(self, **settings: Any) -> str:
        """For `state_key`: a key that these settings tell from that of another callback of this kind."""
        return f"{type(self).__qualname__}{settings!r}"

    def state_dict(self) -> dict[str, Any]:
        """What to save: tensors and plain values only. It is copied before each validation inside training, so
        what is large, and validation does not change, goes into a checkpoint by `on_save_checkpoint`.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit, validate, test or predict begins; `stage` is its name."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit, validate, test or predict ends."""

    def _model_made(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All layers exist, also those of `configure_model`, and no optimizer does."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is on its device and the optimizers exist."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over, nothing is torn down yet."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A few validation batches are about to run before training."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation batches before training have run."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins, after the sanity check."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch has ended."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch begins."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch ends, after its validation."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is on the device and about to be trained on."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch was trained on; `outputs` holds what `training_step` returned, detached."""

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """The loss is about to be differentiated."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gradients have been added."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are complete and unscaled, not yet clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends, its metrics are final."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the validation data begins."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the validation data ends; metrics may still be logged."""

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation batch is about to be evaluated."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation batch was evaluated."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing begins."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing ends, its metrics are final."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the test data begins."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the test data ends; metrics may still be logged."""

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test batch is about to be evaluated."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test batch was evaluated."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction begins."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction ends."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the prediction data begins."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over the prediction data ends."""

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch is about to be predicted."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch was predicted; `outputs` is what `predict_step` returned."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Something was raised, Ctrl-C included; it is raised again after this."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint is complete and about to be written; add to it if you must."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint was read and is about to be applied."""


class Checkpoint(Callback):
    """Base of callbacks that save checkpoints: they run last, after every other hook.

    Ask for a save in a hook, and write it in `commit`, which the loop calls when its state is whole. All of
    them `decide` what to write before any of them does, so that a file knows of its fellows.
    """

    runs_last = True
    asked = True  # whether the next commit concerns this one; most do not

    def decide(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state of the run is whole: settle what is to be written."""

    def commit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The state of the run is whole: write what was asked for."""

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training has ended, and no `on_train_end` has changed anything yet: write what is missing."""


class Calls(tuple[Callable[..., Any], ...]):
    """The calls of one hook, in order."""

    def __call__(self, *arguments: Any) -> None:
        for call in self:
            call(*arguments)


HookTable = SimpleNamespace  # hook name -> calls


def overridden(name: str, owner: object, base: type) -> bool:
    """Whether `owner` brings its own `name`, in its class or on the instance; None switches off an inherited one."""
    if getattr(owner, name, None) is None:
        return False
    if name in vars(owner):
        return True
    return getattr(type(owner), name, None) is not getattr(base, name, None)


def ask(owner: Any, name: str, *arguments: Any) -> Any:
    """Call a method that is no hook of the table, unless None switches it off."""
    method = getattr(owner, name)
    return None if method is None else method(*arguments)


def build_table(
    trainer: Trainer,
    module: LightningModule,
    callbacks: Sequence[Callback],
    module_base: type,
    wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]] | None = None,
) -> HookTable:
    """One tuple of calls per hook, holding only what somebody overrides.

    `wrap(label, call)` lets a profiler replace each call; without one nothing is wrapped.

    Raises:
        MisconfigurationException: for a misspelt or removed hook, or one that takes other arguments.
    """
    for owner, base in [*((callback, Callback) for callback in callbacks), (module, module_base)]:
        check_hooks(owner, base)
    early = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    late = [callback for callback in callbacks if isinstance(callback, Checkpoint)]

    def calls(name: str, owners: Iterable[Callback | LightningModule]) -> Calls:
        found = []
        for owner in owners:
            of_callback = isinstance(owner, Callback)
            if overridden(name, owner, Callback if of_callback else module_base):
                call = getattr(owner, name)
                call = partial(call, trainer, trainer.lightning_module) if of_callback else call
                found.append(wrap(f"{type(owner).__name__}.{name}", call) if wrap else call)
        return Calls(found)

    table = {}
    for hook in HOOKS:
        own = [module] if "module" in hook.owners else []
        table[hook.name] = calls(hook.name, [*early, *own, *late])
    monitors = [callback for callback in callbacks if callback.runs_last]
    others = [callback for callback in callbacks if not callback.runs_last]
    table["on_train_epoch_end"] = calls("on_train_epoch_end", [*others, module])
    table["on_train_epoch_end_monitors"] = calls("on_train_epoch_end", monitors)
    table["on_load_checkpoint"] = calls("on_load_checkpoint", [module])
    table["on_load_checkpoint_callbacks"] = calls("on_load_checkpoint", callbacks)
    return HookTable(**table)


def check_hooks(owner: object, base: type) -> None:
    """Refuse hooks of `owner` that would never be called, or would fail when called."""
    kind = type(owner)
    for name in dir(kind):
        meant = None if hasattr(base, name) else _meant(name)
        if not meant or not hasattr(base, meant) or not callable(getattr(kind, name, None)):
            continue
        # One that has both, or calls it, means it so: it serves something else than a trainer, too.
        both = name.startswith("on_") and overridden(meant, owner, base)
        if both or mentions(owner, name) or _inherits_from_elsewhere(kind, base, name):
            continue
        raise MisconfigurationException(
            f"`{kind.__name__}.{name}` would never be called: there is no such hook. Rename it to `{meant}`."
        )
    if isinstance(owner, Callback):
        warn_uncalled(owner, OF_CALLBACKS)
    leading = ("trainer", "pl_module") if isinstance(owner, Callback) else ()
    for hook in HOOKS:
        if hasattr(base, hook.name) and overridden(hook.name, owner, base):
            _check_arguments(owner, hook, (*leading, *hook.arguments))


# Methods of Lightning's classes that people override, and that are not there here: those of callbacks,
OF_CALLBACKS = {
    "_extract_stats", "_find_names_from_schedulers", "_get_lr_stat", "_get_optimizer_stats", "_format_checkpoint_name",
    "_link_checkpoint", "_remove_checkpoint", "_should_remove_checkpoint", "_should_save_on_train_epoch_end",
    "_should_skip_saving_checkpoint", "_update_best_and_save", "_improvement_message", "_init_bar", "_update_bar",
    "_log_stats", "_get_and_log_device_stats", "configure_columns", "update_parameters", "transfer_weights",
    "reset_batch_norm_and_save_state",
}  # fmt: skip
# those of strategies, and those of precisions.
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


def warn_uncalled(owner: object, theirs: set[str]) -> None:
    """Say which methods were meant to replace one of a class of Lightning's that is not there in ours."""
    kinds = type(owner).__mro__
    ours = next((k for k in kinds if k.__module__.startswith("scaffold_runtime.")), Callback)
    for name, _ in methods_of(owner) if ours is not Callback else ():
        if name in theirs and not hasattr(ours, name) and not mentions(owner, name):
            warnings.warn(
                f"nobody calls `{type(owner).__name__}.{name}`: {ours.__name__} has no such method here.",
                stacklevel=level_of_caller(),
            )


def _meant(name: str) -> str | None:
    """The hook whose old, or misspelt, name this is; a name that is only alike may be a method of the user's."""
    if name in REMOVED_HOOKS or not name.startswith("on_"):
        return REMOVED_HOOKS.get(name)
    words = "_".join(SYNONYMS.get(word, word) for word in name.split("_"))
    return next(iter(difflib.get_close_matches(words, HOOK_NAMES, cutoff=0.9)), None)


def _inherits_from_elsewhere(kind: type, base: type, name: str) -> bool:
    """Whether it is a method of another framework's class, such as a callback for two trainers has."""
    others = (each for each in kind.__mro__ if not issubclass(each, base) and name in vars(each))
    return any(each.__module__.split(".")[0] != kind.__module__.split(".")[0] for each in others)


def mentions(owner: object, name: str) -> bool:
    """Whether a method of the user's, other than this one, names it."""
    return any(own != name and name in code.co_names for own, code in methods_of(owner))


def methods_of(owner: object) -> Iterator[tuple[str, CodeType]]:
    """The code of the methods that the user's classes have, by name."""
    for kind in type(owner).__mro__:
        if not kind.__module__.startswith(("scaffold_runtime.", "torch.", "builtins")):
            for name, value in vars(kind).items():
                if inspect.isfunction(value):
                    yield name, value.__code__


def _check_arguments(owner: object, hook: Hook, arguments: tuple[str, ...]) -> None:
    function = getattr(owner, hook.name)
    where = f"{type(owner).__name__}.{hook.name}"
    later = inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)
    if later or not callable(function):
        raise MisconfigurationException(
            f"`{where}` is {'async, or yields,' if later else repr(function)}, and not a function that can be called. "
            "Write `def` and return, or None to switch it off."
        )
    shortest = [argument for argument in arguments if argument != "dataloader_idx"]
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # a builtin or a mock without a signature: let the call decide
    try:
        signature.bind(*shortest)
    except TypeError:
        raise MisconfigurationException(
            f"`{where}{signature}` cannot be called: "
            f"it receives ({', '.join(arguments)}), by position. Change its arguments to match."
        ) from None
