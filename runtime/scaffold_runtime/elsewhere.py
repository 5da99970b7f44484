"""Runs in child processes: what they run, and what they send back to the trainer of the parent process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from scaffold_runtime.checkpoint.state import load_weights
from scaffold_runtime.hooks import ask
from scaffold_runtime.module import LightningModule

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


def run_here(trainer: Trainer, fn: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """In the child process: run, and gather all that the caller may look at afterwards."""
    returned = getattr(trainer, fn)(*arguments)
    metrics = trainer.metrics
    outcome = {
        "returned": returned,
        "weights": trainer.strategy.whole(dict(trainer.lightning_module.state_dict())),
        "progress": trainer.progress.state_dict(),
        "state": trainer.state,
        "should_stop": trainer.should_stop,
        "ckpt_path": trainer.ckpt_path,
        "callbacks": {c.state_key: c.state_dict() for c in trainer.callbacks},
        "versions": [logger.version for logger in trainer.loggers],
        "values": (metrics.callback_values, metrics.logged_values, metrics.bar_values),
    }
    moved: dict[str, Any] = tree_map_only(Tensor, lambda t: t.detach().cpu(), outcome)
    return moved


def bring_back(trainer: Trainer, arguments: tuple[Any, ...], outcome: dict[str, Any]) -> Any:
    """In the parent process: take over the state, and return what the run returned."""
    whole = (getattr(a, "_orig_mod", a) for a in arguments)  # the module, also if it is compiled
    given = (a for a in whole if isinstance(a, LightningModule))
    module = trainer._module = next(given, None) or trainer.lightning_module
    _make_layers(trainer, module, outcome["weights"])
    load_weights(module, {"state_dict": outcome["weights"]})
    trainer.progress.load_state_dict(outcome["progress"])
    trainer._elsewhere_state = outcome["state"]
    trainer.should_stop, trainer._ckpt_path = outcome["should_stop"], outcome["ckpt_path"]
    for callback in trainer.callbacks:
        if outcome["callbacks"].get(callback.state_key):
            callback.load_state_dict(outcome["callbacks"][callback.state_key])
    for logger, version in zip(trainer.loggers, outcome["versions"], strict=True):
        logger.decide_version(version)
    metrics = trainer.metrics
    metrics.callback_values, metrics.logged_values, metrics.bar_values = outcome["values"]
    return outcome["returned"]


def _make_layers(trainer: Trainer, module: LightningModule, weights: dict[str, Any]) -> None:
    """Create the layers that `configure_model` created in the child process only."""
    if weights.keys() - module.state_dict().keys():
        module.trainer = trainer
        with trainer.precision_plugin.init_context():
            ask(module, "configure_model")
