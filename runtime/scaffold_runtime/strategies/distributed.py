"""Shared by strategies of several processes: connecting, collectives, and ending together."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils._pytree import tree_leaves, tree_map_only

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.errors import (
    MisconfigurationException,
    RankFailed,
    StepError,
    check_choice,
    leave_to_launcher,
    noted,
)
from scaffold_runtime.signals import STOP, code_of
from scaffold_runtime.strategies.agreement import Agreement
from scaffold_runtime.strategies.calls import SWITCH, Calls
from scaffold_runtime.strategies.environments import (
    OURS,
    complete_variables,
    find_node_rank,
    find_place,
)
from scaffold_runtime.strategies.launch import (
    CALL,
    Children,
    check_script,
    die_with_launcher,
    end_with,
    has_launcher,
    leave_group,
    meeting_store,
    places,
    run_in_processes,
    start_scripts,
)
from scaffold_runtime.strategies.meeting import meet
from scaffold_runtime.strategies.strategy import Strategy
from scaffold_runtime.strategies.watch import Watch, is_consequence, rank_failed, text_of

METHODS = ("popen", "spawn", "fork", "forkserver")
# With gloo too, as by torch's default: tensors in host memory need not go through a GPU, and wait for it.
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo", "mps": "gloo"}
DEFAULT_TIMEOUT = timedelta(minutes=30)
PERHAPS_APART = (
    f"If all processes are alive, one of them made a call that others did not: {SWITCH}=1 names it."
)
LONG = timedelta(days=1)  # for work of one rank that may take hours; `Watch` notices if it fails


class DistributedStrategy(Strategy):
    """Several processes, one per device. Abstract; each subclass is final.

    Args:
        process_group_backend: "nccl", "gloo" or another; by default what fits the device: for GPUs NCCL, and
            gloo for tensors in main memory.
        timeout: of collectives, after which a process counts as lost.
        start_method: "popen" runs the script again for each device; "spawn" and "fork" start processes
            for one call of fit, validate, test or predict.

    Raises:
        MisconfigurationException: if the start method is unknown.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: str = "popen",
    ) -> None:
        check_choice(self, "start_method", start_method, *METHODS)
        self.process_group_backend, self.start_method = process_group_backend, start_method
        self.timeout = timeout or DEFAULT_TIMEOUT
        self._children: Children | None = None
        self._watch: Watch | None = None
        self._agreement: Agreement | None = None
        self._calls: Calls | None = None
        self._place_known = False
        self._failed = self._exiting = False
        self._name = "before the first run"

    # -- connecting -----------------------------------------------------------------------------

    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        self._accelerator, self._devices, self._num_nodes = accelerator, devices, num_nodes
        self.world_size = len(devices) * num_nodes
        self._find_place()
        if has_launcher():
            die_with_launcher()

    def _find_place(self) -> None:
        place = find_place(len(self._devices), self._num_nodes, self.environment)
        if place is not None:
            self._place_known = True
            self.global_rank, self.local_rank = place.global_rank, place.local_rank
            self.node_rank = place.node_rank
        else:
            self.node_rank = find_node_rank(self._num_nodes)
            self.global_rank = self.node_rank * len(self._devices)
        self.root_device = self._accelerator.device(self._devices[self.local_rank])

    def launch(self, call: Callable[[], Any], obeys: bool) -> Callable[[], Any] | None:
        self._find_place()
        if self._place_known:
            return None
        here = places(len(self._devices), self._num_nodes, self.node_rank)
        if self.start_method != "popen":
            return lambda: run_in_processes(self.start_method, here, call, self.timeout, obeys)
        check_script(here)  # before anything is set up that its advice would conflict with
        if self.node_rank == 0:
            self._server = meeting_store(self.timeout, host=True)
        self._children = start_scripts(here)
        end_with(self._children, lambda: self._failed, lambda: self._exiting)
        self._place_known = True
        return None

    def open(self) -> None:
        self._failed = self._exiting = False
        if self.root_device.type == "cuda":  # another trainer may have set another device
            torch.cuda.set_device(self.root_device)
        if not dist.is_initialized():
            self._connect()
        # Unique, since torchrun's store and its keys outlive a restart.
        self._name = self.broadcast(f"run-{uuid.uuid4().hex}")
        self._watcher().open()
        self._agreement = Agreement(self._store, self.global_rank, self._name)

    def _watcher(self) -> Watch:
        if self._watch is None:
            name = os.environ.get(CALL, self._name)
            self._watch = Watch(name, self.global_rank, self._children, quiet=has_launcher())
        return self._watch

    def _connect(self) -> None:
        complete_variables(self.environment)
        rank, size, timeout = self.global_rank, self.world_size, self.timeout
        # The launcher's store exists already, so failures while connecting are noticed.
        if OURS in os.environ:
            self._watcher().open()
        backend = self.process_group_backend or BACKENDS.get(self.root_device.type, "gloo")
        store: Any = next(iter(rendezvous("env://", rank, size, timeout=timeout)))[0]
        store.set_timeout(timeout)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            store = PrefixStore(meet(store, rank, size, timeout), store)
        elif CALL in os.environ:
            store = PrefixStore(os.environ[CALL], store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        if os.environ.get(SWITCH):
            self._calls = Calls(self._store, rank, size, min(timeout / 2, timedelta(seconds=10)))
        atexit.register(leave_group)

    @property
    def _store(self) -> Any:
        return dist.distributed_c10d._get_default_store()

    # -- ending together ------------------------------------------------------------------------

    def fail(self, error: BaseException) -> BaseException:
        if self._failed:
            return error
        self._failed = True
        watch = self._watcher()
        if self._agreement is not None and self._agreement.stop > STOP and code_of(error):
            self._exiting = True  # all ranks exit because of a signal
            watch.close()
            return error
        if is_consequence(error):
            error = self._failure_elsewhere(watch) or noted(error, PERHAPS_APART)
        first = watch.publish(error)
        watch.close()
        unexplained = is_consequence(error) and not isinstance(error, RankFailed)
        if unexplained and not first.startswith(f"{self.global_rank}\n"):
            error = rank_failed(first)
        if watch.quiet:
            leave_to_launcher(error)
        elif self._children is not None and not isinstance(error, RankFailed):
            _print_first_failure(first, error)
        return error

    def _failure_elsewhere(self, watch: Watch) -> RankFailed | None:
        """Why another rank is gone. Polled for a second, since it may not have reported its failure yet."""
        for _ in range(10):
            failure = watch.failure()
            if failure is not None:
                return failure
            time.sleep(0.1)
        return None

    def close(self) -> None:
        if not self._failed and dist.is_initialized():
            self.barrier("end of the run")
        if self._watch is not None:
            self._watch.close()

    def evaluating(
        self, module: nn.Module, of_each: list[list[float]]
    ) -> AbstractContextManager[Any]:
        even = math.inf not in of_each[0] and all(own == of_each[0] for own in of_each)
        return nullcontext() if even or self.divider is None else self.unevenly(module, of_each)

    def unevenly(
        self, module: nn.Module, of_each: list[list[float]]
    ) -> AbstractContextManager[Any]:
        """Like `evaluating`, if ranks have different or unknown numbers of batches."""
        raise MisconfigurationException(
            f"the processes have {of_each} batches to evaluate, and under this strategy all must have as many. "
            "Change the batch size of the loader, drop the last batch, or use strategy='ddp'."
        )

    def sync_batchnorm(self, module: nn.Module) -> None:
        if self.root_device.type == "cpu":
            raise MisconfigurationException(
                "Trainer(sync_batchnorm=True) works on GPUs only; torch has no such layer for CPUs."
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(module)

    # -- collectives ----------------------------------------------------------------------------

    def _alone(self, call: str) -> bool:
        """Whether no other rank takes part in `call`; in debug mode, also check that all ranks make it."""
        if self._failed or self.world_size == 1 or not dist.is_initialized():
            return True
        if self._calls is not None:
            self._calls.check(call)
        return False

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        own: Tensor = torch.as_tensor(tensor)
        reduce_op = getattr(reduce_op, "name", reduce_op).lower()
        if self._alone("reduce"):
            return own
        # On the same kind of device on all ranks, or one would use NCCL and another gloo.
        reduced = own.detach().to(self.root_device, copy=True, non_blocking=True)
        mean = reduce_op in ("mean", "avg")  # gloo has no mean
        dist.all_reduce(
            reduced, getattr(dist.ReduceOp, "SUM" if mean else reduce_op.upper()), group
        )
        return reduced / dist.get_world_size(group) if mean else reduced

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        shapes = _shapes(data)
        if self._alone(f"all_gather of {shapes}"):
            return data
        if group is None and not torch.is_grad_enabled():
            _check_alike(self.gather(shapes))

        def gather(tensor: Tensor) -> Tensor:
            source = tensor if sync_grads else tensor.detach()
            gathered: Tensor = Gathered.apply(source, group)  # type: ignore[no-untyped-call,unused-ignore]
            return gathered

        return tree_map_only(Tensor, gather, data)

    def gather(self, value: Any) -> list[Any]:
        if self._alone("gather"):
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_to_first(self, value: Any) -> list[Any]:
        if self._alone("gather_to_first"):
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_global_zero else None
        on_cpu = tree_map_only(Tensor, lambda tensor: tensor.cpu(), value)
        dist.gather_object(on_cpu, values)
        return [value] if values is None else values

    def broadcast(self, value: Any, src: int = 0) -> Any:
        if self._alone("broadcast"):
            return value
        box = [tree_map_only(Tensor, Tensor.cpu, value)]  # else unpickled on the sender's GPU
        dist.broadcast_object_list(box, src)
        return box[0]

    def barrier(self, name: str | None = None) -> None:
        if not self._alone("barrier"):
            # NCCL would guess the device, and warn that it does.
            nccl = dist.get_backend() == "nccl"
            dist.barrier(device_ids=[self.root_device.index] if nccl else None)

    def all_reach(self, place: str) -> bool:
        keys = [f"{self._name}/{place}-{rank}" for rank in range(self.world_size)]
        self._store.set(keys[self.global_rank], "")
        try:
            self._store.wait(keys, self.timeout / 2)  # before others' collectives time out
        except RuntimeError:
            return False
        return True

    def first_per_node(self, work: Callable[[], Any]) -> None:
        key = f"{self._name}/prepared-{self.node_rank}"
        if self.local_rank == 0:
            work()
            self._store.set(key, "1")
        else:
            self._store.wait([key], LONG)

    def agree_to_stop(self, batch: float, asked: int, due: bool = False) -> int:
        if self._agreement is None or self._failed:
            return asked
        return self._agreement.at(batch, max(asked, self._watcher().asked), due)

    def now(self) -> float:
        return time.monotonic() if self._agreement is None else self._agreement.now


def _shapes(data: Any) -> str:
    tensors = (each for each in tree_leaves(data) if isinstance(each, Tensor))
    return ", ".join(f"{each.dtype} {'x'.join(map(str, each.shape))}" for each in tensors)


def _check_alike(shapes: list[str]) -> None:
    """Refuse different shapes, as in evaluations, where ranks may have different numbers of samples: gloo would abort,
    and NCCL wait forever."""
    if len(set(shapes)) > 1:
        each = ", ".join(f"{shape} in process {rank}" for rank, shape in enumerate(shapes))
        raise StepError(
            f"all_gather got tensors of different shapes: {each}. No sample is evaluated twice, so processes may have "
            "different numbers of them: `self.trainer.strategy.gather(x)` gives a list with what each of them has."
        )


def send_first(tensors: Iterable[Tensor]) -> None:
    """Broadcast rank 0's values of these tensors, in messages of 250 MB."""
    detached = [tensor.detach() for tensor in tensors]
    if detached:  # as DDP does it, which handles non-contiguous tensors
        share: Any = vars(dist)["_broadcast_coalesced"]
        share(dist.group.WORLD, detached, 250 * 2**20, 0)


def _print_first_failure(first: str, error: BaseException) -> None:
    """Print why the first rank failed, if this rank's own reason is a different one."""
    if first.partition("\n")[2] != text_of(error):
        sys.stderr.write(f"{rank_failed(first)}\n\n")


class Gathered(torch.autograd.Function):
    """The tensors of all ranks, stacked. Backward sums over all ranks the gradients for this rank's tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group, tensor = group, tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, tensor, group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[dist.get_rank(ctx.group)], None
