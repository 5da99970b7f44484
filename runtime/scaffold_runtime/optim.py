"""Optimizers and schedulers: what `configure_optimizers` may return, and when schedulers step.

`configure_optimizers` returns one of: an optimizer; a list or tuple of optimizers; a pair (optimizers,
schedulers); a dict with "optimizer" and maybe "lr_scheduler" and "monitor"; a list or tuple of such
dicts; None. A scheduler is a scheduler object or a dict with the fields of `LRSchedulerConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from scaffold_runtime.errors import MisconfigurationException, did_you_mean, not_logged, warn

if TYPE_CHECKING:
    from scaffold_runtime.module import LightningModule
    from scaffold_runtime.precision import Precision

FORMS = (
    "Return an optimizer, a list of optimizers, a pair ([optimizers], [schedulers]), "
    'a dict with "optimizer" and maybe "lr_scheduler", a list of such dicts, or None.'
)
TAKES_ANY_GROUP = (ConstantLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR)
"""Schedulers that handle any number of parameter groups; others only those that existed when they were created."""


@dataclass
class LRSchedulerConfig:
    """A scheduler and when it steps; the defaults are what a bare scheduler gets."""

    scheduler: Any
    name: str | None = None
    interval: str = "epoch"
    frequency: int = 1
    reduce_on_plateau: bool = False
    monitor: str | None = None
    strict: bool = True


def configure(module: LightningModule) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Call `configure_optimizers`, and convert and check what it returns.

    Raises:
        MisconfigurationException: if the answer has none of the accepted forms.
    """
    answer = module.configure_optimizers()
    if answer is None:
        warn("`configure_optimizers` returned None: training runs without an optimizer.")
    optimizers, schedulers = parse_optimizers(answer)
    if len(optimizers) > 1 and module.automatic_optimization:
        raise MisconfigurationException(
            f"{type(module).__name__}.configure_optimizers returned {len(optimizers)} optimizers, which needs "
            "manual optimization: set `self.automatic_optimization = False` in `__init__` and step them in "
            "`training_step`."
        )
    for config in schedulers:
        _check_scheduler(config, optimizers, module)
    own = {id(parameter) for parameter in module.parameters()}
    for optimizer in optimizers:
        if own.isdisjoint(map(id, parameters_of(optimizer))):
            warn(
                f"the {type(optimizer).__name__} that `configure_optimizers` returned has none of the parameters of "
                f"{type(module).__name__}, which will not learn. Were its layers replaced after that?"
            )
    return optimizers, schedulers


def parse_optimizers(answer: Any) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Bring any accepted return form into two lists."""
    if answer is None:
        return [], []
    if isinstance(answer, Optimizer):
        return [answer], []
    if isinstance(answer, Mapping):
        return _from_dict(answer)
    if isinstance(answer, (list, tuple)):
        if answer and all(isinstance(item, Mapping) and "optimizer" in item for item in answer):
            parts = [_from_dict(item) for item in answer]
            return [o for part in parts for o in part[0]], [s for part in parts for s in part[1]]
        if len(answer) == 2 and isinstance(answer[0], (list, tuple)):
            optimizers, schedulers = answer
            schedulers = schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]
            return _optimizers(optimizers), [_scheduler(s) for s in schedulers]
        return _optimizers(answer), []
    raise MisconfigurationException(
        f"`configure_optimizers` returned a {type(answer).__name__}. {FORMS}"
    )


def _optimizers(items: Any) -> list[Optimizer]:
    for item in items:
        if not isinstance(item, Optimizer):
            raise MisconfigurationException(
                f"`configure_optimizers` returned a {type(item).__name__} where an optimizer belongs. {FORMS}"
            )
    return list(items)


def _from_dict(answer: Mapping[str, Any]) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    known = {"optimizer", "lr_scheduler", "monitor", "frequency"}
    for key in answer:
        if key not in known:
            raise MisconfigurationException(
                f"`configure_optimizers` returned a dict with the key {key!r}.{did_you_mean(key, known)} {FORMS}"
            )
    if "optimizer" not in answer:
        raise MisconfigurationException(
            f'`configure_optimizers` returned a dict without "optimizer". {FORMS}'
        )
    optimizers = _optimizers([answer["optimizer"]])
    scheduler = answer.get("lr_scheduler")
    if scheduler is None:
        return optimizers, []
    items = scheduler if isinstance(scheduler, (list, tuple)) else [scheduler]
    return optimizers, [_scheduler(item, answer.get("monitor")) for item in items]


def _scheduler(item: Any, monitor: str | None = None) -> LRSchedulerConfig:
    given = dict(item) if isinstance(item, Mapping) else {"scheduler": item}
    known = {field.name for field in fields(LRSchedulerConfig)}
    for key in given:
        if key not in known:
            raise MisconfigurationException(
                f"the scheduler dict of `configure_optimizers` has the unknown key {key!r}."
                f"{did_you_mean(key, known)} Known keys: {', '.join(sorted(known))}."
            )
    if "scheduler" not in given:
        raise MisconfigurationException(
            'the scheduler dict of `configure_optimizers` lacks the key "scheduler".'
        )
    given.setdefault("monitor", monitor)
    given.setdefault("reduce_on_plateau", isinstance(given["scheduler"], ReduceLROnPlateau))
    return LRSchedulerConfig(**given)


def _check_scheduler(
    config: LRSchedulerConfig, optimizers: list[Optimizer], module: LightningModule
) -> None:
    kind, automatic = type(config.scheduler).__name__, module.automatic_optimization
    owner, reason = getattr(config.scheduler, "optimizer", None), ""
    if config.interval not in ("epoch", "step"):
        reason = f"has interval={config.interval!r}: choose 'epoch' or 'step'."
    elif not isinstance(config.frequency, int) or config.frequency < 1:
        reason = f"has frequency={config.frequency!r}: it must be an integer of at least 1."
    elif config.reduce_on_plateau and config.monitor is None and automatic:
        reason = (
            'needs a monitor: return {"optimizer": optimizer, "lr_scheduler": '
            '{"scheduler": scheduler, "monitor": "val_loss"}}.'
        )
    elif owner is not None and owner not in optimizers:
        reason = "belongs to an optimizer that `configure_optimizers` did not return: return both."
    elif automatic and not callable(getattr(config.scheduler, "step", None)):
        reason = "that `configure_optimizers` returned has no `step()`."
    if reason:
        raise MisconfigurationException(f"the scheduler {kind} {reason}")
    if isinstance(config.scheduler, OneCycleLR) and config.interval == "epoch":
        warn(
            "OneCycleLR is made for interval='step' but steps once per epoch here: "
            'return {"scheduler": scheduler, "interval": "step"} if that is not intended.'
        )


class Schedules:
    """Steps schedulers when they are due, for automatic optimization."""

    def __init__(
        self,
        configs: list[LRSchedulerConfig],
        step: Callable[[Any, Any], None] | None,
        monitored: Callable[[], Mapping[str, Any]],
        reduce: Callable[..., Tensor] | None = None,
    ) -> None:
        self.configs = configs
        self._step = step  # the module's own `lr_scheduler_step`, if it has one
        self._monitored = monitored
        self._reduce = reduce  # over ranks, if there are several
        self.replace(list(configs))

    def replace(self, configs: list[LRSchedulerConfig]) -> None:
        """Step these schedulers from now on, also saved in checkpoints."""
        self.configs[:] = configs
        self._per_step = [c for c in configs if c.interval == "step" and not c.reduce_on_plateau]
        self._plateaus = [c for c in configs if c.interval == "step" and c.reduce_on_plateau]

    def after_step(self, step: int) -> None:
        """Step what is due after the optimizer's `step`-th step."""
        for config in self._per_step:
            if step % config.frequency == 0:
                self._advance(config)

    def after_logging(self, step: int) -> None:
        """Step plateau schedulers that are due, when the metrics of the `step`-th step are known."""
        for config in self._plateaus:
            if step % config.frequency == 0:
                self._advance(config)

    def after_epoch(self, finished: int) -> None:
        """Step what is due when the `finished`-th epoch is over and its metrics are known."""
        for config in self.configs:
            if config.interval == "epoch" and finished % config.frequency == 0:
                self._advance(config)

    def _advance(self, config: LRSchedulerConfig) -> None:
        plateau = config.reduce_on_plateau
        metric: Any = self._metric(config) if plateau or config.monitor else None
        if plateau and metric is None:
            return
        if plateau and self._reduce is not None:
            # A step value differs between ranks, but learning rates must not.
            metric = self._reduce(torch.tensor(float(metric)))
        if self._step is not None:
            self._step(config.scheduler, metric)
        else:
            step_scheduler(config.scheduler, float(metric) if plateau else None)

    def _metric(self, config: LRSchedulerConfig) -> Any:
        known, monitor = self._monitored(), config.monitor or ""
        if monitor in known:
            return known[monitor]
        missing = not_logged(config.scheduler, monitor, known)
        if config.reduce_on_plateau and config.strict:
            raise missing
        if config.reduce_on_plateau:
            warn(str(missing))
        return None


def step_scheduler(scheduler: Any, metric: Any | None = None) -> None:
    """Step a scheduler. Parameter groups that were added later, as by finetuning, and that it cannot handle keep their
    rates: torch's schedulers would fail on them."""
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", [])
    known = _known_groups(scheduler, len(groups))
    later = groups[known:]
    del groups[known:]
    try:
        scheduler.step() if metric is None else scheduler.step(metric)
    finally:
        groups.extend(later)


def _known_groups(scheduler: Any, there: int) -> int:
    inside = [_known_groups(inner, there) for inner in getattr(scheduler, "_schedulers", ())]
    if inside or isinstance(scheduler, TAKES_ANY_GROUP):
        return min(inside, default=there)
    return len(getattr(scheduler, "base_lrs", range(there)))


class LightningOptimizer:
    """A wrapper of an optimizer, returned by `self.optimizers()` in manual optimization.

    `step` runs hooks, uses the run's precision and counts the step; all else is the optimizer's, including its class,
    so that schedulers accept it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        step: Callable[..., Any],
        module: LightningModule,
    ) -> None:
        self.optimizer = optimizer
        self._step = step
        self._module = module

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Take one step; `closure` evaluates the loss for optimizers that need it, `kwargs` go to the optimizer."""
        return self._step(self.optimizer, closure, **kwargs)

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Let only this optimizer's parameters require gradients inside the block."""
        prepared = self._module.trainer._live().prepared
        prepared.set_syncing(sync_grad)
        try:
            with self._module.toggled_optimizer(self):
                yield
        finally:
            prepared.set_syncing(True)

    @property  # type: ignore[misc] # for `isinstance`
    def __class__(self) -> type:
        return type(self.optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def __reduce__(self) -> Any:
        """Copy or pickle the bare optimizer: the wrapper belongs to a run."""
        return copy.copy, (self.optimizer,)

    def __repr__(self) -> str:
        return f"LightningOptimizer({self.optimizer!r})"


def give_base(scheduler: Any, rate: float) -> list[str]:
    """Set the base learning rate of a scheduler and those inside it. Returns the type names of those that set rates by
    themselves, and so cannot take one."""
    if isinstance(scheduler, (CyclicLR, OneCycleLR)):
        return [type(scheduler).__name__]
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
    inside = getattr(scheduler, "_schedulers", ())
    return [kind for inner in inside for kind in give_base(inner, rate)]


def takes_closure(optimizer: Optimizer, precision: Precision) -> bool:
    """Whether an optimizer may evaluate the loss again, as SAM and line searches do. torch's own do not (for LBFGS
    there is another step function), and none can if gradients are scaled."""
    step = type(optimizer).step
    own = not step.__module__.startswith("torch.optim") and not precision.scales
    return own and "closure" in signature(step).parameters


def parameters_of(optimizer: Optimizer | LightningOptimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def grad_norm(
    module: nn.Module, norm_type: float | int | str, group_separator: str = "/"
) -> dict[str, Tensor]:
    """The norm of each parameter's gradient, and of all together, by name, for `self.log_dict`.

    Raises:
        MisconfigurationException: if `norm_type` is not above 0 ("inf" is allowed).
    """
    norm_type = float(norm_type)
    if norm_type <= 0:
        raise MisconfigurationException(
            f"grad_norm(norm_type={norm_type!r}): give a number above 0, or 'inf'."
        )
    names = ((n, p.grad) for n, p in module.named_parameters() if p.grad is not None)
    norms = {
        f"grad_{norm_type}_norm{group_separator}{name}": gradient.detach().norm(norm_type)
        for name, gradient in names
    }
    if norms:
        total = torch.stack([norm.float() for norm in norms.values()]).norm(norm_type)
        norms[f"grad_{norm_type}_norm_total"] = total
    return norms
