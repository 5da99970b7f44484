"""Number formats: what the forward pass computes in, what the weights are kept in, how gradients scale."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException


class Precision:
    """Precision of weights and arithmetic: 32-true. Subclass it for another."""

    precision: str = "32-true"
    dtype: torch.dtype = torch.float32  # of weights and inputs
    converts_inputs: bool = False  # whether floating point inputs are brought to `dtype`
    scales: bool = False  # whether gradients are scaled between backward and step

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Bring weights and buffers into the storage format."""
        return module

    def forward_context(self) -> AbstractContextManager[Any]:
        """A context in which user steps run. Made once for each kind of step, and entered in each, unless it can be
        entered once only (`@contextmanager`)."""
        return nullcontext()

    def init_context(self) -> AbstractContextManager[Any]:
        """The context in which a module built under `trainer.init_module()` is created."""
        return nullcontext()

    def begin(self) -> None:
        """Gradients are new from here on: training begins, or a batch of manual optimization."""

    def backward(self, loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
        """Call `run_backward` on the (possibly scaled) loss."""
        run_backward(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients back to their true size, before hooks see them and clipping."""

    def step(
        self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
    ) -> Any:
        """Let the optimizer step, with what it was `given`, and return what it does."""
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
        # What is complex stays so; `module.to` would keep its real part.
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
        # Without torch's memory of weights it has cast: a step may change them (by hand, two optimizers), and what
        # it cast without gradients would stay without.
        return torch.autocast(self._device.type, dtype=self._dtype, cache_enabled=False)


class ScaledPrecision(AutocastPrecision):
    """The same in float16, with a gradient scaler against underflow: 16-mixed."""

    scales = True

    def __init__(self, device: torch.device, scaler: torch.amp.GradScaler | None = None) -> None:
        super().__init__("16-mixed", torch.float16, device)
        self._unscaled: set[int] = set()
        self.scaler = scaler or torch.amp.GradScaler(device.type)

    def begin(self) -> None:
        if self._unscaled:  # they failed before their step, or took none
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
        """Let the optimizer step, with what it was `given`, and return what it does."""
        returned = self.scaler.step(optimizer, **given)
        # Also where it was left out since gradients overflowed: a scheduler steps then, and torch would warn.
        vars(optimizer)["_opt_called"] = True
        self._unscaled.discard(id(optimizer))
        if not self._unscaled:  # an update would forget of the others that they are
            self.scaler.update()
        return returned

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.scaler.load_state_dict(state)


def in_precision(step: Callable[..., Any], precision: Precision) -> Callable[..., Any]:
    """A step of the module, within the precision's context where it has one."""
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
