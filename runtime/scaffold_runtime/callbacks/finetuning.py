"""BaseFinetuning and BackboneFinetuning: train a new head first, then the backbone below it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.hooks import Callback, overridden
from scaffold_runtime.module import LightningModule

if TYPE_CHECKING:
    from scaffold_runtime import Trainer

Modules = nn.Module | Iterable[Any]
"""A module, or modules nested in lists."""


def multiplicative(epoch: int) -> float:
    """Double the learning rate every epoch."""
    return 2.0


class BaseFinetuning(Callback, abc.ABC):
    """Freeze parts of a model before training, and unfreeze them later.

    Override `freeze_before_training` (with `self.freeze`) and `finetune_function` (with
    `self.unfreeze_and_add_param_group`). `configure_optimizers` should take only the parameters that require
    gradients. The parameter groups added for unfrozen modules are saved and restored; what is frozen is part of
    every checkpoint.
    """

    def __init__(self) -> None:
        self._groups: dict[int, list[dict[str, Any]]] = {}
        self._restored: dict[str, Any] | None = None
        self._module: LightningModule | None = None

    @abc.abstractmethod
    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what should not be trained at first."""

    @abc.abstractmethod
    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        """At the start of each training epoch: unfreeze what is due."""

    # -- hooks and state --------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._module = pl_module
        if not overridden("configure_model", pl_module, LightningModule):
            self.freeze_before_training(pl_module)

    def _model_made(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if overridden("configure_model", pl_module, LightningModule):
            self.freeze_before_training(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = set(pl_module.parameters())
        groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
        if any(parameter not in own for group in groups for parameter in group["params"]):
            raise MisconfigurationException(
                f"{type(self).__name__} gives an optimizer more of the model's parameters as training goes on, and "
                "DeepSpeed's optimizer has them in a form of its own. Use strategy='ddp'."
            )
        restored, self._restored = self._restored, None
        if restored is None:
            return
        parameters = dict(pl_module.named_parameters())
        for name, module in pl_module.named_modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = name in restored["tracking"]
        for index, optimizer in enumerate(trainer.optimizers):
            for group in self._groups.get(index, [])[len(optimizer.param_groups) :]:
                named = [parameters[name] for name in group["params"]]
                optimizer.add_param_group({**group, "params": named})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        for index, optimizer in enumerate(trainer.optimizers):
            self.finetune_function(pl_module, trainer.current_epoch, optimizer)
            self._groups[index] = [
                {**group, "params": [names[p] for p in group["params"]]}
                for group in optimizer.param_groups
            ]

    def state_dict(self) -> dict[str, Any]:
        if self._module is None:
            return {}
        parts = self._module.named_modules()
        return {
            "internal_optimizer_metadata": self._groups,
            "tracking": [
                n for n, m in parts if isinstance(m, _BatchNorm) and m.track_running_stats
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._groups = dict(state_dict["internal_optimizer_metadata"])
        self._restored = state_dict

    # -- what overrides use -----------------------------------------------------------------------

    @staticmethod
    def flatten_modules(modules: Modules) -> list[nn.Module]:
        """All submodules that have parameters of their own or no submodules."""
        if isinstance(modules, nn.ModuleDict):
            modules = modules.values()
        if isinstance(modules, nn.Module) and not isinstance(modules, Iterable):
            found: Iterable[nn.Module] = modules.modules()
        else:
            found = [inner for part in modules for inner in BaseFinetuning.flatten_modules(part)]
        return [m for m in found if not list(m.children()) or m._parameters]

    @staticmethod
    def filter_params(
        modules: Modules, train_bn: bool = True, requires_grad: bool = True
    ) -> Iterator[nn.Parameter]:
        """The parameters that require gradients (or do not), without batch norm's if `train_bn` is False."""
        for module in BaseFinetuning.flatten_modules(modules):
            if train_bn or not isinstance(module, _BatchNorm):
                own = module.parameters(recurse=False)
                yield from (p for p in own if p.requires_grad == requires_grad)

    @staticmethod
    def make_trainable(modules: Modules) -> None:
        """Let parameters require gradients, and batch norm track statistics."""
        for module in BaseFinetuning.flatten_modules(modules):
            _set_own(module, True)

    @staticmethod
    def freeze_module(module: nn.Module) -> None:
        """Freeze the parameters of this module, not those of its submodules."""
        _set_own(module, False)

    @staticmethod
    def freeze(modules: Modules, train_bn: bool = True) -> None:
        """Freeze parameters, except batch norm's if `train_bn` is True."""
        for module in BaseFinetuning.flatten_modules(modules):
            _set_own(module, train_bn and isinstance(module, _BatchNorm))

    @staticmethod
    def filter_on_optimizer(
        optimizer: Optimizer, params: Iterable[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Leave out parameters that `optimizer` already has, with a warning."""
        params = list(params)
        fresh = _unknown_to(optimizer, params)
        if len(fresh) < len(params):
            warn(
                f"{len(params) - len(fresh)} of the parameters to unfreeze are already in the optimizer and "
                "are left there. Give `configure_optimizers` only parameters that require gradients: "
                "`filter(lambda p: p.requires_grad, self.parameters())`."
            )
        return fresh

    @staticmethod
    def unfreeze_and_add_param_group(
        modules: Modules,
        optimizer: Optimizer,
        lr: float | None = None,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
    ) -> None:
        """Unfreeze modules and give their parameters to the optimizer as a new group.

        The group's rate is `lr`, or that of the first group divided by `initial_denom_lr`.
        """
        never_frozen = list(BaseFinetuning.filter_params(modules, train_bn=train_bn))
        frozen = list(BaseFinetuning.filter_params(modules, train_bn, requires_grad=False))
        BaseFinetuning.make_trainable(modules)
        fresh = BaseFinetuning.filter_on_optimizer(optimizer, frozen)
        fresh += _unknown_to(optimizer, never_frozen)  # batch norm, mostly; usually in it already
        rate = optimizer.param_groups[0]["lr"] / initial_denom_lr if lr is None else float(lr)
        if fresh:
            optimizer.add_param_group({"params": fresh, "lr": rate})


class BackboneFinetuning(BaseFinetuning):
    """Freeze `self.backbone` of the module at first, then train it with a rising learning rate.

    Args:
        unfreeze_backbone_at_epoch: the epoch (from 0) in which it is unfrozen.
        lambda_func: of the epoch: the factor by which the backbone's learning rate changes each later epoch.
        backbone_initial_ratio_lr: its first learning rate, as a fraction of the current one.
        backbone_initial_lr: its first learning rate, in place of that fraction.
        should_align: never let its learning rate rise above the current one.
        initial_denom_lr: accepted for compatibility with Lightning; unused, since a first rate is always given.
        train_bn: train its batch norm layers, too.
        verbose: print both learning rates each epoch.
        rounding: digits printed.

    Raises:
        MisconfigurationException: if the module has no `backbone`.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 10,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 10e-2,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
    ) -> None:
        super().__init__()
        self.unfreeze_backbone_at_epoch, self.lambda_func = unfreeze_backbone_at_epoch, lambda_func
        self.backbone_initial_ratio_lr = backbone_initial_ratio_lr
        self.backbone_initial_lr = backbone_initial_lr
        self.should_align, self.initial_denom_lr = should_align, initial_denom_lr
        self.train_bn, self.verbose, self.rounding = train_bn, verbose, rounding
        self.previous_backbone_lr: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "previous_backbone_lr": self.previous_backbone_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.previous_backbone_lr = state_dict["previous_backbone_lr"]
        super().load_state_dict(state_dict)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        backbone = getattr(pl_module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise MisconfigurationException(
                f"BackboneFinetuning needs a `backbone` (an nn.Module), which {type(pl_module).__name__} lacks: "
                "set `self.backbone` in its `__init__`."
            )
        self.freeze(backbone)

    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        current = optimizer.param_groups[0]["lr"]
        if epoch == self.unfreeze_backbone_at_epoch:
            rate = self.backbone_initial_lr
            rate = current * self.backbone_initial_ratio_lr if rate is None else rate
            self.unfreeze_and_add_param_group(
                pl_module.backbone, optimizer, rate, train_bn=self.train_bn
            )
        elif epoch > self.unfreeze_backbone_at_epoch and self.previous_backbone_lr is not None:
            rate = self.lambda_func(epoch + 1) * self.previous_backbone_lr
            rate = min(rate, current) if self.should_align else rate
            optimizer.param_groups[-1]["lr"] = rate
        else:
            return
        self.previous_backbone_lr = rate
        if self.verbose:
            digits = self.rounding
            pl_module.print(f"lr {round(current, digits)}, backbone lr {round(rate, digits)}")


def _unknown_to(optimizer: Optimizer, params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in params if id(p) not in known]


def _set_own(module: nn.Module, trainable: bool) -> None:
    if isinstance(module, _BatchNorm):
        module.track_running_stats = trainable
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad = trainable
