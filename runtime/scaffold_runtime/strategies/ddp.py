"""DDP: every rank holds the full model, and gradients are averaged during backward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.precision import Precision
from scaffold_runtime.strategies.distributed import DistributedStrategy, send_first
from scaffold_runtime.strategies.router import StepRouter
from scaffold_runtime.strategies.strategy import Prepared, to_main_memory, unwrapped

SPARSE, DENSE = 1, 2  # kinds of gradients; 0 is none


class DDPStrategy(DistributedStrategy):
    """Train a replica of the model in each process (DistributedDataParallel).

    Args:
        accelerator: accepted for compatibility with Lightning; the trainer decides.
        parallel_devices: accepted for compatibility with Lightning; the trainer decides.
        ddp_comm_state: the state of `ddp_comm_hook`.
        ddp_comm_hook: how gradients are communicated: see `torch.distributed.algorithms.ddp_comm_hooks`.
        ddp_comm_wrapper: wraps the hook, for instance `fp16_compress_wrapper`.
        process_group_backend: "nccl", "gloo" or another; by default what fits the device.
        timeout: of collectives, after which a process counts as lost.
        start_method: "popen", "spawn" or "fork".
        **kwargs: arguments of `torch.nn.parallel.DistributedDataParallel`: `find_unused_parameters`,
            `static_graph`, `gradient_as_bucket_view`, `bucket_cap_mb`, `broadcast_buffers`.

    Raises:
        MisconfigurationException: if an argument is wrong.
    """

    def __init__(
        self,
        accelerator: Any = None,
        parallel_devices: Any = None,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: str = "popen",
        **kwargs: Any,
    ) -> None:
        super().__init__(process_group_backend, timeout, start_method)
        self._comm_state, self._comm_hook = ddp_comm_state, ddp_comm_hook
        if ddp_comm_wrapper is not None and ddp_comm_hook is not None:
            self._comm_hook = ddp_comm_wrapper(ddp_comm_hook)
        self._arguments = kwargs
        self._wrapped: DistributedDataParallel | None = None

    def prepare(self, module: Any, optimizers: list[Optimizer], precision: Precision) -> Prepared:
        automatic = getattr(module, "automatic_optimization", True)
        trains = bool(optimizers) and any(p.requires_grad for p in module.parameters())
        if not (trains and automatic):
            return self._without_ddp(module, precision, trains)
        self._wrapped = wrapped = self._wrap(StepRouter(module))
        if module.trainer.accumulate_grad_batches == "auto":
            # A rank that repeats its forward would wait there for buffers that the others do not send.
            wrapped.require_forward_param_sync = False
        frozen = [p for p in module.parameters() if not p.requires_grad]

        def backward(loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
            """DDP averages only gradients of parameters that were trained when it wrapped the model."""
            precision.backward(loss, run_backward)
            if wrapped.require_backward_grad_sync and any(p.requires_grad for p in frozen):
                average_gradients(frozen)

        def call(name: str) -> Callable[..., Any]:
            # Evaluation bypasses DDP, whose forward broadcasts buffers: ranks may have different numbers of batches.
            return partial(wrapped, name) if name == "training_step" else getattr(module, name)

        def set_syncing(syncs: bool) -> None:
            wrapped.require_backward_grad_sync = syncs  # as `wrapped.no_sync` does

        others: dict[str, Any] = {"backward": backward} if frozen else {}
        others["average"] = lambda: average_gradients(list(module.parameters()))
        return unwrapped(module, precision, call=call, set_syncing=set_syncing, **others)

    def _wrap(self, router: StepRouter) -> DistributedDataParallel:
        try:
            wrapped = DistributedDataParallel(router, **self._arguments)
        except TypeError as error:
            raise MisconfigurationException(
                f"DDPStrategy: {error}. Extra arguments go to `DistributedDataParallel`."
            ) from error
        if self._comm_hook is not None:
            wrapped.register_comm_hook(self._comm_state, self._comm_hook)
        return wrapped

    def evaluating(
        self, module: nn.Module, of_each: list[list[float]]
    ) -> AbstractContextManager[Any]:
        if not self._alone("evaluating"):
            send_first(self._shared(module))
        return super().evaluating(module, of_each)

    def _shared(self, module: nn.Module) -> list[Tensor]:
        """Buffers, such as running statistics, for which all ranks take the values of rank 0."""
        names = ("broadcast_buffers", "forward_sync_buffers")
        own = any(self._arguments.get(name) is False for name in names)
        return [] if own else list(module.buffers())

    def close(self) -> None:
        super().close()
        if self._wrapped is not None:
            # The reducer holds gradient buckets as large as the model. And if it released the process group last, while
            # holding the GIL, it would wait forever for gloo's threads, which wait for the GIL.
            self._wrapped.reducer = self._wrapped.logger = None  # type: ignore[assignment]

    def release(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        # After a failure the device may wait for ranks that are gone.
        if self.root_device.type != "cpu" and not self._failed:
            to_main_memory(module, optimizers)

    def _without_ddp(self, module: nn.Module, precision: Precision, trains: bool) -> Prepared:
        """Without DDP, whose reducer expects one backward per forward. In manual optimization a step may call
        backward several times, so gradients are averaged after each.
        """
        send_first((*module.parameters(), *self._shared(module)))

        def backward(loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
            precision.backward(loss, run_backward)
            average_gradients(list(module.parameters()))

        if not trains:
            return unwrapped(module, precision)
        return unwrapped(module, precision, backward=backward)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average over ranks the gradients of parameters for which any rank has one: one all-reduce per dtype, and one for
    each sparse gradient.

    Gradients that were averaged before are equal on all ranks, so averaging them again changes nothing.
    """
    for parameter, kind in zip(parameters, _kinds(parameters), strict=True):
        parameter.grad = _gradient(parameter, kind)
    gradients = [p.grad for p in parameters if p.grad is not None]
    for sparse in [gradient for gradient in gradients if gradient.is_sparse]:
        dist.all_reduce(sparse)
        sparse /= dist.get_world_size()
    dense = [gradient for gradient in gradients if not gradient.is_sparse]
    for dtype in dict.fromkeys(gradient.dtype for gradient in dense):
        alike = [gradient for gradient in dense if gradient.dtype is dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in alike])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in alike])
        for gradient, part in zip(alike, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _kinds(parameters: list[nn.Parameter]) -> list[int]:
    """For each parameter, the kind of gradient that any rank has: none, sparse or dense. A rank that has dense ones
    for all need not wait for the device."""
    own = [0 if p.grad is None else SPARSE if p.grad.is_sparse else DENSE for p in parameters]
    kinds = torch.tensor(own, dtype=torch.uint8).to(parameters[0].device, non_blocking=True)
    dist.all_reduce(kinds, dist.ReduceOp.MAX)
    return own if min(own) == DENSE else kinds.tolist()


def _gradient(parameter: nn.Parameter, kind: int) -> Tensor | None:
    """The gradient of a parameter, in the kind that others have; zeros if this rank has none."""
    if parameter.grad is not None:
        return parameter.grad.to_dense() if kind == DENSE else parameter.grad
    if kind != SPARSE:
        return torch.zeros_like(parameter) if kind else None
    rows = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
    values = parameter.new_empty(0, *parameter.shape[1:])
    return torch.sparse_coo_tensor(rows, values, parameter.shape, check_invariants=False)
