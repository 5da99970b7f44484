"""Precisions: the dtype of the forward pass, the dtype of the weights, and the scaling of gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException


class Precision:
    """Precision of weights and arithmetic: 32-true. Subclass it for other precisions."""

    precision: str = "32-true"
    dtype: torch.dtype = torch.float32  # of weights and inputs
    converts_inputs: bool = False  # whether floating point inputs are converted to `dtype`
    scales: bool = False  # whether gradients are scaled between backward and step

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert weights and buffers to the dtype in which they are kept."""
        return module

    def forward_context(self) -> AbstractContextManager[Any]:
        """A context in which user steps run. Created once for each kind of step and entered in each, unless it can only
        be entered once (`@contextmanager`)."""
        return nullcontext()

    def init_context(self) -> AbstractContextManager[Any]:
        """The context in which a module built under `trainer.init_module()` is created."""
        return nullcontext()

    def begin(self) -> None:
        """Called when gradients start over: when training begins, and in manual optimization before each batch."""

    def backward(self, loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
        """Call `run_backward` on the (possibly scaled) loss."""
        run_backward(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Undo the scaling of gradients, before hooks see them and before clipping."""

    def step(
        self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
    ) -> Any:
        """Step the optimizer with the arguments `given`, and return what its `step` returns."""
        if closure is not None:
            given["closure"] = closure
        return optimizer.step(**given)

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class TruePrecision(Precision):
    """Weights, inputs and arithmetic in another dtype: 64-true, bf16-true, 16-true."""

    converts_inputs = True

    def __init__(self, precision: str, dtype: torch.dtype) -> None:
        self.precision, self.dtype = precision, dtype

    def convert_module(self, module: nn.Module) -> nn.Module:
        # Complex tensors stay complex; `module.to` would discard their imaginary part.
        module._apply(lambda t: t.to(self.dtype) if t.is_floating_point() else t)
        return module

    def forward_context(self) -> AbstractContextManager[Any]:
        return default_dtype(self.dtype)

    def init_context(self) -> AbstractContextManager[Any]:
        return self.forward_context()


class AutocastPrecision(Precision):
    """Mixed precision by autocast: weights in 32 bits, arithmetic in 16 where torch finds it safe: bf16-mixed."""

    def __init__(self, precision: str, dtype: torch.dtype, device: torch.device) -> None:
        self.precision = precision
        self._device, self._dtype = device, dtype

    def forward_context(self) -> AbstractContextManager[Any]:
        # Without the cache of cast weights: manual optimization may change weights within a step, and weights that
        # were cast under `no_grad` would stay without gradients.
        return torch.autocast(self._device.type, dtype=self._dtype, cache_enabled=False)


class ScaledPrecision(AutocastPrecision):
    """Autocast to float16, with a gradient scaler against underflow: 16-mixed."""

    scales = True

    def __init__(self, device: torch.device, scaler: torch.amp.GradScaler | None = None) -> None:
        super().__init__("16-mixed", torch.float16, device)
        self._unscaled: set[int] = set()
        self.scaler = scaler or torch.amp.GradScaler(device.type)

    def begin(self) -> None:
        if self._unscaled:  # optimizers that were unscaled but did not step
            self._unscaled.clear()
            self.scaler.update()

    def backward(self, loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
        run_backward(self.scaler.scale(loss))

    def unscale(self, optimizer: Optimizer) -> None:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        if id(optimizer) not in self._unscaled and any(p.grad is not None for p in parameters):
            self._unscaled.add(id(optimizer))  # a user may clip before stepping
            self.scaler.unscale_(optimizer)

    def step(
        self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
    ) -> Any:
        """Step the optimizer with the arguments `given`, and return what its `step` returns."""
        returned = self.scaler.step(optimizer, **given)
        # Also if the step was skipped because gradients overflowed: torch would warn when a scheduler steps.
        vars(optimizer)["_opt_called"] = True
        self._unscaled.discard(id(optimizer))
        if not self._unscaled:  # `update` would forget that others are unscaled
            self.scaler.update()
        return returned

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.scaler.load_state_dict(state)


def in_precision(step: Callable[..., Any], precision: Precision) -> Callable[..., Any]:
    """A step of the module, run in the precision's context, if it has one."""
    context = precision.forward_context()
    if type(context) is nullcontext:
        return step
    once = isinstance(context, ContextDecorator)  # made by `@contextmanager`

    def run(*arguments: Any) -> Any:
        with precision.forward_context() if once else context:
            return step(*arguments)

    return run


class default_dtype:  # noqa: N801 - a context manager, used like a function
    """Make `dtype` torch's default for new floating point tensors. Reusable, not reentrant."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *exception: object) -> None:
        torch.set_default_dtype(self.previous)


TRUE_DTYPES = {
    "64-true": torch.float64,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
}
ALIASES = {
    "64": "64-true",
    "32": "32-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
    "None": "32-true",
}


def select_precision(choice: str | int | Precision | None, device: torch.device) -> Precision:
    """Turn the Trainer's `precision` argument into a Precision for `device`.

    Raises:
        MisconfigurationException: for an unknown name.
    """
    if isinstance(choice, Precision):
        return choice
    name = ALIASES.get(str(choice), str(choice))
    if name == "32-true":
        return Precision()
    if name in TRUE_DTYPES:
        return TruePrecision(name, TRUE_DTYPES[name])
    if name == "bf16-mixed":
        return AutocastPrecision(name, torch.bfloat16, device)
    if name == "16-mixed":
        return ScaledPrecision(device)
    known = [*TRUE_DTYPES, "32-true", "bf16-mixed", "16-mixed", "64", "32", "16", "bf16"]
    raise MisconfigurationException(
        f"precision={choice!r} is unknown. Choose one of: {', '.join(known)}."
    )
