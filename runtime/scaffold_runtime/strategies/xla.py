"""XLA: TPUs, and whatever else torch_xla drives. Steps are recorded, compiled once, and run as a whole."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from scaffold_runtime.accelerators import Accelerator, xla
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.precision import Precision
from scaffold_runtime.seed import computing_alike
from scaffold_runtime.strategies.launch import failed_in, save_call
from scaffold_runtime.strategies.strategy import Prepared, Strategy, unwrapped

INSIDE = "SCAFFOLD_INSIDE_XLA"  # set in processes that torch_xla started for us


class XLAStrategy(Strategy):
    """Train on one XLA device, or on all of this machine's.

    Args:
        spmd: one process for all devices: XLA shards each batch, and the work, over them. The loader's
            batch size is then the global one. Otherwise `torch_xla.launch` starts a process for each.
        sync_module_states: start with the weights of rank 0 on all ranks.
        debug: have torch_xla report what compiles anew, and why (`PT_XLA_DEBUG`).

    Raises:
        MissingExtra: if torch_xla is not installed.
    """

    infers = False

    def __init__(
        self, spmd: bool = False, sync_module_states: bool = True, debug: bool = False
    ) -> None:
        self.spmd, self._syncs_states, self._debug = spmd, sync_module_states, debug
        self._now, self._agreed, self._mesh = time.monotonic(), 0, None

    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        if accelerator.name != "tpu":
            raise MisconfigurationException(
                f"strategy='xla' trains on accelerator='tpu', not on {accelerator.name!r}."
            )
        xla()
        found = accelerator.auto_device_count()
        if len(devices) not in (1, found):
            raise MisconfigurationException(
                f"devices={len(devices)}: torch_xla uses one device or all {found} of a machine."
            )
        if self._debug:
            os.environ["PT_XLA_DEBUG"] = "1"
        self.world_size = 1 if self.spmd else len(devices) * num_nodes
        # The runtime must not start before processes do, so the true device is looked up in `open`.
        self.root_device = accelerator.device(0)

    def launch(self, call: Callable[[], Any], obeys: bool) -> Callable[[], Any] | None:
        alone = (
            self.world_size == 1 or os.environ.get(INSIDE) or "TORCHELASTIC_RUN_ID" in os.environ
        )
        return None if alone else lambda: run_in_processes(call)

    def open(self) -> None:
        runtime = xla(".runtime")
        if self.spmd and self._mesh is None:
            runtime.use_spmd()
            sharding = xla(".distributed.spmd")
            count = runtime.global_runtime_device_count()
            self._mesh = sharding.Mesh(list(range(count)), (count,), ("data",))
        self.root_device = xla().device()
        if self.world_size > 1:
            self.world_size, self.global_rank = runtime.world_size(), runtime.global_ordinal()
            self.local_rank, self.node_rank = runtime.local_ordinal(), runtime.host_index()
        xla().manual_seed(torch.initial_seed() % 2**31)

    # -- the model ----------------------------------------------------------------------------------

    def place(self, module: nn.Module, precision: Precision) -> None:
        if precision.scales:
            raise MisconfigurationException(
                "XLA devices do not scale losses. Use precision='bf16-mixed', 'bf16-true' or '32-true'."
            )
        materialize(module, torch.device("cpu"))
        names: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        module.to(self.root_device)
        for first, *others in names.values():  # moving makes new parameters, two of a shared one
            for name in others:
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, module.get_parameter(first))
        if self.world_size > 1 and self._syncs_states:
            _model().broadcast_master_param(module)

    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        sync = xla().sync

        def call(name: str) -> Callable[..., Any]:
            step = getattr(module, name)

            def run(*args: Any) -> Any:
                output = step(*self._sharded_batch(args))
                if name != "training_step":
                    sync()  # start computing, without waiting
                return output

            return run

        def step(
            optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
        ) -> None:
            precision.step(optimizer, closure, **given)
            sync()

        return unwrapped(
            module,
            precision,
            call=call,
            unscale=self._reduce_gradients,
            step=step,
            set_syncing=lambda syncs: sync(),  # runs the previous batch: one graph per batch
        )

    def _reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average gradients over ranks, before hooks and clipping see them. Repeating it changes nothing."""
        if self.world_size > 1:
            _model().reduce_gradients(optimizer)

    def _sharded_batch(self, batch: Any) -> Any:
        """Under SPMD, tell XLA to shard every tensor of a batch along its first dimension."""
        if self._mesh is None:
            return batch
        mark = xla(".distributed.spmd").mark_sharding
        count = len(self._mesh.device_ids)

        def divide(tensor: Tensor) -> Tensor:
            if tensor.device.type == "xla" and tensor.ndim and tensor.shape[0] % count == 0:
                mark(tensor, self._mesh, ("data", *[None] * (tensor.ndim - 1)))
            return tensor

        return tree_map_only(Tensor, divide, batch)

    def whole(self, state: Any) -> Any:
        """The state in host memory: a file with tensors of an XLA device can only be read where there is one."""
        xla().sync()
        return tree_map_only(Tensor, lambda tensor: tensor.cpu(), state)

    # -- collectives --------------------------------------------------------------------------------

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: str = "mean") -> Tensor:
        if self.world_size == 1:
            return tensor
        operation = {"min": "min", "max": "max"}.get(reduce_op, "sum")
        scale = 1.0 / self.world_size if reduce_op in ("mean", "avg") else 1.0
        reduced: Tensor = _model().all_reduce(operation, tensor.to(self.root_device), scale=scale)
        return reduced

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        if self.world_size == 1:
            return data
        functions = xla(".core.functions") if sync_grads else _model()
        return tree_map_only(
            Tensor, lambda part: functions.all_gather(part[None].to(self.root_device), dim=0), data
        )

    def gather(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        packed = pickle.dumps(self.whole(value))
        return [pickle.loads(one) for one in _model().rendezvous("gather", packed)]

    def barrier(self, name: str | None = None) -> None:
        if self.world_size > 1:
            _model().rendezvous(name or "barrier")

    def first_per_node(self, work: Callable[[], Any]) -> None:
        if self.local_rank == 0:
            work()
        self.barrier("prepared")

    def agree_to_stop(self, batch: float, asked: int, due: bool = False) -> int:
        """Decided only at the end of an epoch or evaluation, since each exchange waits for the devices."""
        if self.world_size > 1 and (due or batch == math.inf):
            told = self.gather((asked, time.monotonic()))
            self._now, self._agreed = told[0][1], max(wish for wish, _ in told)
        return asked if self.world_size == 1 else self._agreed

    def now(self) -> float:
        return time.monotonic() if self.world_size == 1 else self._now


def _model() -> Any:
    return xla(".core.xla_model")


def run_in_processes(call: Callable[[], Any]) -> Any:
    """Run `call` in a process per device and return what the first one's returned."""
    folder = Path(tempfile.mkdtemp(prefix="scaffold-"))
    try:
        save_call(computing_alike(call), folder / "call", "xla")
        xla().launch(_child_main, args=(str(folder),))
        return torch.load(folder / "returned", weights_only=False)  # our own process wrote it
    except Exception as error:
        reasons = sorted(folder.glob("error-*"))
        if not reasons:
            raise
        raise failed_in(reasons[0]) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child_main(index: int, folder: str) -> None:
    """The main function of a new process. After an error it exits at once, since others may wait for it."""
    os.environ[INSIDE] = "1"
    try:
        returned = torch.load(Path(folder) / "call", weights_only=False)()
        if index == 0:
            torch.save(returned, Path(folder) / "returned")
    except BaseException:
        Path(folder, f"error-{index}").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(1)
