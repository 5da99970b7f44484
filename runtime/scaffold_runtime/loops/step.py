"""One training step: automatic, with a closure, manual, or split to fit (`split.py`). Chosen once per run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from scaffold_runtime.errors import MisconfigurationException, StepError, warn
from scaffold_runtime.hooks import overridden
from scaffold_runtime.loops.stages import positional
from scaffold_runtime.module import LightningModule
from scaffold_runtime.optim import parameters_of

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

Step = Callable[[Any, int, bool], tuple[Any, bool]]
"""(batch, index, last of the epoch) -> (outputs for on_train_batch_end, whether the optimizer stepped)"""


def build_step(run: Run) -> Step:
    """Choose the step for this run."""
    run.precision.begin()
    if not run.module.automatic_optimization:
        return manual(run)
    run.forward = make_forward(run)
    if not run.optimizers:  # run the step, change nothing
        return lambda batch, index, last: (run.forward(batch, index, False)[1], True)
    closure = overridden("optimizer_step", run.module, LightningModule)
    if isinstance(run.optimizers[0], LBFGS):
        _check_lbfgs(run)
        closure = True
    # A run may go on in the middle of a window, with the gradients that are there.
    run.loss_seen = any(p.grad is not None for p in parameters_of(run.optimizers[0]))
    if run.trainer.accumulate_grad_batches == "auto":
        from scaffold_runtime.loops.split import splitting

        return splitting(run, closure)
    return with_closure(run) if closure else automatic(run)


def _check_lbfgs(run: Run) -> None:
    if run.precision.scales:
        raise MisconfigurationException(
            "LBFGS re-evaluates the loss inside its step, which a gradient scaler cannot follow. "
            "Use precision='bf16-mixed' or '32-true' with it."
        )
    if run.trainer.accumulate_grad_batches not in (1, "auto"):
        raise MisconfigurationException(
            "LBFGS re-evaluates the loss of one batch inside its step, and each time would add to the gradients of the "
            "batches before. Use accumulate_grad_batches=1 and larger batches with it."
        )


def automatic(run: Run) -> Step:
    """Forward, backward, clip, step, schedule; gradients of a whole window are averaged."""
    prepared, trainer, backward = run.prepared, run.trainer, run.backward
    forward = run.forward

    def step(batch: Any, index: int, last: bool) -> tuple[Any, bool]:
        optimizer, first, closes, divisor = run.optimizers[0], True, True, 1
        if trainer.accumulate_grad_batches > 1 or run.mid_window:
            first, closes, divisor = run.window(index, last)
            prepared.set_syncing(closes)
        loss, outputs = forward(batch, index, first)
        if first:
            run.loss_seen = False
        if loss is not None:
            run.loss_seen = True
            backward(loss if divisor == 1 else loss / divisor)
        run.mid_window = not closes
        if not closes or not run.loss_seen:
            return outputs, False
        complete(run, optimizer)
        if run.takes_closure:
            prepared.step(optimizer, re_evaluation(run, batch, index, first, divisor, loss))
        else:
            prepared.step(optimizer)
        if run.scheduler_configs:
            run.schedules.after_step(run.progress.step + 1)
        return outputs, True

    return step


def re_evaluation(
    run: Run, batch: Any, index: int, first: bool, divisor: int, loss: Tensor | None
) -> Callable[[], Tensor | None]:
    """What optimizers of others are given, such as SAM: at first the loss and the gradients that are there, unless
    they, or the weights, have changed since; then those at the weights of now."""
    optimizer = run.optimizers[0]
    parameters = parameters_of(optimizer)

    def state() -> list[tuple[int, int, int]]:
        return [(id(p.grad), getattr(p.grad, "_version", 0), p._version) for p in parameters]

    here: list[tuple[int, int, int]] | None = state()

    def closure() -> Tensor | None:
        nonlocal here
        there, here = here, None
        if there is not None and there == state():
            return of_all(run, loss)
        again, _ = differentiate(run, batch, index, first, True, divisor)
        complete(run, optimizer)
        return of_all(run, again)

    return closure


def of_all(run: Run, loss: Tensor | None) -> Tensor | None:
    """The mean of all processes: an optimizer that looks at it must do the same in each."""
    return loss if loss is None or not run.several else run.trainer.strategy.reduce(loss.detach())


def differentiate(
    run: Run, batch: Any, index: int, first: bool, closes: bool, divisor: int
) -> tuple[Tensor | None, Any]:
    """Forward and backward, within an optimizer's step: the loss and the outputs for hooks."""
    run.prepared.set_syncing(closes)
    with torch.enable_grad():
        loss, outputs = run.forward(batch, index, first)
        if loss is not None:
            run.backward(loss if divisor == 1 else loss / divisor)
    return loss, outputs


def complete(run: Run, optimizer: Optimizer, clips: bool = True) -> None:
    """The gradients of a window are there: unscale them, show them to hooks, clip them."""
    run.prepared.unscale(optimizer)
    for call in run.hooks.on_before_optimizer_step:
        call(optimizer)
    if clips:
        run.clip(optimizer)


def with_closure(run: Run) -> Step:
    """The same where the optimizer, or the module's `optimizer_step`, wants to evaluate the loss itself."""
    module = run.module

    def step(batch: Any, index: int, last: bool) -> tuple[Any, bool]:
        first, closes, divisor = run.window(index, last)
        outputs: Any = None
        evaluated = False

        def closure() -> Tensor | None:
            nonlocal outputs, evaluated
            evaluated = True
            loss, outputs = differentiate(run, batch, index, first, closes, divisor)
            if loss is not None or first:
                run.loss_seen = loss is not None
            return of_all(run, loss)

        run.mid_window = not closes
        if not closes:
            closure()
            return outputs, False
        run.stepped = evaluated = False
        module.optimizer_step(run.progress.epoch, index, run.manual_optimizers[0], closure)
        if not evaluated:
            raise StepError(
                f"`{type(module).__name__}.optimizer_step` did not call the closure, so there was no forward and "
                "backward pass. Write `optimizer.step(closure=optimizer_closure)`, or call it yourself."
            )
        if run.stepped:
            run.schedules.after_step(run.progress.step + 1)
        return outputs, run.stepped

    return step


def manual(run: Run) -> Step:
    """The module steps its optimizers itself; a batch in which any of them stepped counts as one."""

    def step(batch: Any, index: int, last: bool) -> tuple[Any, bool]:
        run.precision.begin()
        run.stepped, run.waiting = False, list(run.optimizers)
        output = None if batch is None else run.training_step(batch, index)
        outputs = {"loss": output} if isinstance(output, Tensor) else output or {}
        return _detached(outputs), run.stepped

    return step


def training_step_of(run: Run) -> Callable[[Any, int], Any]:
    """(batch, index) -> what `training_step` returns, also where it takes the batch alone."""
    step = run.prepared.call("training_step")
    if positional(run.module.training_step) >= 2:
        return step
    return lambda batch, index: step(batch)


def loss_of(output: Any) -> tuple[Tensor | None, Any]:
    """Split what `training_step` returned in place of a loss into the loss and the outputs for hooks, detached.

    Raises:
        StepError: if there is no loss to be found in it.
    """
    if output is None:
        warn(
            "`training_step` returned None, or the loader gave None: the batch is skipped. If this was on purpose, "
            "ignore this warning."
        )
        return None, None
    if isinstance(output, Mapping):
        loss = output.get("loss")
        if isinstance(loss, Tensor):
            return loss, _detached(output)
        if loss is None:
            raise StepError(
                f'`training_step` returned a dict with the keys {sorted(map(str, output))} but no "loss". '
                'Add the loss under the key "loss", or return it alone.'
            )
        raise StepError(
            f"the loss that `training_step` returned is a {type(loss).__name__}. Return a tensor with one element."
        )
    raise StepError(
        f"`training_step` returned a {type(output).__name__}. "
        'Return the loss (a tensor), a dict with the key "loss", or None to skip the batch.'
    )


def _detached(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {k: v.detach() if isinstance(v, Tensor) else v for k, v in output.items()}
    return output.detach() if isinstance(output, Tensor) else output


def make_forward(run: Run) -> Callable[[Any, int, bool], tuple[Tensor | None, Any]]:
    """(batch, index, whether it opens a window) -> the loss and the outputs for hooks.

    The gradients of the window before go first, so that forward has their memory; after it, where a hook looks on.
    """
    hooks, training_step, zero = run.hooks, run.training_step, run.zero_grad
    watched = bool(hooks.on_train_batch_end) or run.trainer.accumulate_grad_batches == "auto"
    own_zero = overridden("optimizer_zero_grad", run.module, LightningModule)
    late = own_zero or bool(hooks.on_before_zero_grad)

    def forward(batch: Any, index: int, first: bool) -> tuple[Tensor | None, Any]:
        if first and not late:
            zero(run.optimizers[0])
        output = None if batch is None else training_step(batch, index)
        loss = outputs = output
        if not isinstance(output, Tensor):
            loss, outputs = loss_of(output)
        elif watched:  # else no hook looks, and to detach costs more than all the hooks
            outputs = {"loss": output.detach()}
        if first and late:
            zero(run.optimizers[0])
        return loss, outputs

    return forward


def make_zero_grad(run: Run) -> Callable[[Optimizer], None]:
    """Clear gradients, through the module's own `optimizer_zero_grad` where it has one."""
    hooks, module = run.hooks, run.module
    own = overridden("optimizer_zero_grad", module, LightningModule)

    def zero_grad(optimizer: Optimizer) -> None:
        for call in hooks.on_before_zero_grad:
            call(optimizer)
        if own:
            module.optimizer_zero_grad(run.progress.epoch, run.progress.batch, optimizer)
        else:
            optimizer.zero_grad()

    return zero_grad


def make_backward(run: Run) -> Callable[..., None]:
    """Differentiate, through the precision and the module's own `backward` where it has one."""
    hooks, prepared, module = run.hooks, run.prepared, run.module
    own = overridden("backward", module, LightningModule)

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        for call in hooks.on_before_backward:
            call(loss)
        try:
            if own or args or kwargs:
                prepared.backward(loss, lambda scaled: module.backward(scaled, *args, **kwargs))
            else:
                prepared.backward(loss, Tensor.backward)
        except RuntimeError as error:
            check_loss(loss)
            if "backward through the graph a second time" in str(error):
                raise StepError(
                    "what the loss was computed from was differentiated already. The trainer calls `backward`, so "
                    "`training_step` must not, unless `self.automatic_optimization = False`; and what is kept from "
                    "an earlier batch, such as a hidden state, needs `.detach()`."
                ) from error
            raise
        for call in hooks.on_after_backward:
            call()

    return backward


def check_loss(loss: Tensor) -> None:
    """Why backward refused it, where that lies in the loss. (To look each time takes longer than the hooks do.)

    Raises:
        StepError: if it has several elements, or needs no gradient.
    """
    if loss.numel() != 1:
        raise StepError(
            f"the loss has the shape {tuple(loss.shape)}. Return a tensor with one element, for instance its mean."
        ) from None
    if not loss.requires_grad:
        raise StepError(
            "the loss needs no gradient, so there is nothing to learn: was it detached (`.detach()`, `.item()`, "
            "`torch.no_grad()`), or are all parameters frozen?"
        ) from None


def make_clip(run: Run) -> Callable[[Optimizer], None]:
    """Clip gradients, through the module's own `configure_gradient_clipping` where it has one."""
    trainer, module = run.trainer, run.module
    own = overridden("configure_gradient_clipping", module, LightningModule)

    def clip(optimizer: Optimizer) -> None:
        limit, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        if own:
            module.configure_gradient_clipping(
                optimizer, gradient_clip_val=limit, gradient_clip_algorithm=algorithm
            )
        elif limit:
            run.prepared.clip(parameters_of(optimizer), limit, algorithm or "norm")

    return clip


def step_optimizer(
    run: Run, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
) -> Any:
    """What `optimizer.step()` does inside manual optimization and `optimizer_step` overrides; in a closure, hooks
    and clipping follow the gradients. Returns what the optimizer does."""
    run.stepped, by_hand = True, not run.module.automatic_optimization
    run.waiting = [other for other in run.waiting if other is not optimizer]
    if closure is None:
        if by_hand:
            complete(run, optimizer, clips=False)
        return run.prepared.step(optimizer, **given)

    def whole() -> Any:
        loss = closure()
        if run.loss_seen or by_hand:  # in any batch of the window
            complete(run, optimizer, clips=not by_hand)
        return loss

    if not run.precision.scales:
        return run.prepared.step(optimizer, whole, **given)
    loss = whole()  # a gradient scaler must see the gradients before the step
    if run.loss_seen or by_hand:
        run.prepared.step(optimizer, **given)
    else:
        run.stepped = False
    return loss
