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
    if not run.optimizers:  # `training_step` runs, no weight changes
        return lambda batch, index, last: (run.forward(batch, index, False)[1], True)
    closure = overridden("optimizer_step", run.module, LightningModule)
    if isinstance(run.optimizers[0], LBFGS):
        _check_lbfgs(run)
        closure = True
    # A resumed run may start within an accumulation window, with the gradients of the checkpoint.
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
    """Forward, backward, clip, step, schedule; gradients are averaged over the accumulation window."""
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
    """The closure for third-party optimizers such as SAM. Its first call returns the loss just computed, unless
    weights or gradients have changed since; other calls compute loss and gradients at the current weights.
    """
    optimizer = run.optimizers[0]
    parameters = parameters_of(optimizer)

    def state() -> list[tuple[int, int, int]]:
        return [(id(p.grad), getattr(p.grad, "_version", 0), p._version) for p in parameters]

    here: list[tuple[int, int, int]] | None = state()

    def closure() -> Tensor | None:
        nonlocal here
        there, here = here, None
        if there is not None and there == state():
            return mean_over_ranks(run, loss)
        again, _ = differentiate(run, batch, index, first, True, divisor)
        complete(run, optimizer)
        return mean_over_ranks(run, again)

    return closure


def mean_over_ranks(run: Run, loss: Tensor | None) -> Tensor | None:
    """An optimizer that looks at the loss must decide the same on every rank."""
    return loss if loss is None or not run.several else run.trainer.strategy.reduce(loss.detach())


def differentiate(
    run: Run, batch: Any, index: int, first: bool, closes: bool, divisor: int
) -> tuple[Tensor | None, Any]:
    """Forward and backward inside an optimizer's step; returns the loss and the outputs for hooks."""
    run.prepared.set_syncing(closes)
    with torch.enable_grad():
        loss, outputs = run.forward(batch, index, first)
        if loss is not None:
            run.backward(loss if divisor == 1 else loss / divisor)
    return loss, outputs


def complete(run: Run, optimizer: Optimizer, clips: bool = True) -> None:
    """All gradients of a window are computed: unscale them, run `on_before_optimizer_step`, clip them."""
    run.prepared.unscale(optimizer)
    for call in run.hooks.on_before_optimizer_step:
        call(optimizer)
    if clips:
        run.clip(optimizer)


def with_closure(run: Run) -> Step:
    """Like `automatic`, where the optimizer or the module's `optimizer_step` evaluates the loss by a closure."""
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
            return mean_over_ranks(run, loss)

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
    """(batch, index) -> what `training_step` returns, even if it takes only the batch."""
    step = run.prepared.call("training_step")
    if positional(run.module.training_step) >= 2:
        return step
    return lambda batch, index: step(batch)


def loss_of(output: Any) -> tuple[Tensor | None, Any]:
    """Split an output of `training_step` that is no tensor into the loss and the detached outputs for hooks.

    Raises:
        StepError: if it contains no loss.
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

    Gradients of the previous window are cleared before forward, which can then use their memory; if a hook
    observes the clearing, after forward.
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
        elif watched:  # otherwise nobody reads them, and detaching costs more than all hooks
            outputs = {"loss": output.detach()}
        if first and late:
            zero(run.optimizers[0])
        return loss, outputs

    return forward


def make_zero_grad(run: Run) -> Callable[[Optimizer], None]:
    """Clear gradients, by the module's own `optimizer_zero_grad` if it has one."""
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
    """Differentiate through the precision, and by the module's own `backward` if it has one."""
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
    """Called when backward failed: raise if the loss is the reason. (Checking every loss would cost more than hooks.)

    Raises:
        StepError: if it has several elements, or does not require grad.
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
    """Clip gradients, by the module's own `configure_gradient_clipping` if it has one."""
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
    """What `optimizer.step()` does inside manual optimization and `optimizer_step` overrides. With a closure, hooks
    and clipping run after it has computed the gradients. Returns what the optimizer's step returns.
    """
    run.stepped, by_hand = True, not run.module.automatic_optimization
    run.waiting = [other for other in run.waiting if other is not optimizer]
    if closure is None:
        if by_hand:
            complete(run, optimizer, clips=False)
        return run.prepared.step(optimizer, **given)

    def closure_and_hooks() -> Any:
        loss = closure()
        if run.loss_seen or by_hand:  # a loss in any batch of the window
            complete(run, optimizer, clips=not by_hand)
        return loss

    if not run.precision.scales:
        return run.prepared.step(optimizer, closure_and_hooks, **given)
    loss = closure_and_hooks()  # a gradient scaler must see the gradients before the step
    if run.loss_seen or by_hand:
        run.prepared.step(optimizer, **given)
    else:
        run.stepped = False
    return loss
