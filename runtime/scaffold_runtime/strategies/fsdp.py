"""FSDP2: every rank holds a shard of each weight, and the full weight only while computing with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer
from torch.random import fork_rng
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import (
    CheckpointError,
    MisconfigurationException,
    check_choice,
    did_you_mean,
    noted,
)
from scaffold_runtime.precision import Precision
from scaffold_runtime.strategies.distributed import DistributedStrategy, send_first
from scaffold_runtime.strategies.router import StepRouter
from scaffold_runtime.strategies.strategy import Prepared, unwrapped

ROUTER = "_fsdp_router"
# Whether gathered weights are freed after forward, and whether there are several replicas of the weights.
STRATEGIES = {
    "FULL_SHARD": (True, False),
    "SHARD_GRAD_OP": (False, False),
    "HYBRID_SHARD": (True, True),
    "_HYBRID_SHARD_ZERO2": (False, True),
}
GATHERED_AS = {"bf16": torch.bfloat16, "fp16": torch.float16}
CALLED_APART = (
    "FSDP has sharded these weights, and what was called outside a step does not gather them. Call the "
    "LightningModule itself, or name the class that is called in auto_wrap_policy, too; all processes must call it."
)
Policy = Collection[type[nn.Module] | str] | Callable[[nn.Module], bool] | None


class FSDPStrategy(DistributedStrategy):
    """Shard weights, gradients and optimizer states over processes: FSDP2, torch's `fully_shard`.

    Any strategy and any number of processes can load its checkpoints.

    Args:
        auto_wrap_policy: which submodules are sharded one by one: classes or their names, a function of a module,
            or one of torch's policies (`size_based_auto_wrap_policy`, `ModuleWrapPolicy`, ...).
        reshard_after_forward: free gathered weights between forward and backward.
        sharding_strategy: the same by FSDP1's names: "FULL_SHARD" frees them, "SHARD_GRAD_OP" keeps them;
            "HYBRID_SHARD" and "_HYBRID_SHARD_ZERO2" likewise, with a replica of the weights on each node.
        device_mesh: (replicas, shards): the number of replicas, and of processes that each is sharded over.
        mixed_precision: dtypes for computing and for reducing gradients: a MixedPrecisionPolicy, or FSDP1's
            MixedPrecision. "bf16" or "fp16" gathers weights in 16 bits and reduces gradients in 32, for the
            trainer's `bf16-mixed` or `16-mixed`; by default weights are gathered in 32 bits there.
        state_dict_type: "full" writes checkpoints as one file with full tensors; "sharded" as a folder to which
            each process writes its shards. Any strategy can load both.
        cpu_offload: keep the shards in main memory.
        activation_checkpointing_policy: which submodules recompute their activations in backward.
        process_group_backend: "nccl", "gloo" or another; by default what fits the device.
        timeout: of collectives, after which a process counts as lost.
        start_method: "popen", "spawn" or "fork".
    """

    divides = True
    divider = "FSDP"

    def __init__(
        self,
        auto_wrap_policy: Policy = None,
        reshard_after_forward: bool = True,
        mixed_precision: Any = None,
        sharding_strategy: Any = None,
        device_mesh: tuple[int, int] | None = None,
        state_dict_type: str = "full",
        cpu_offload: Any = False,
        activation_checkpointing_policy: Policy = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: str = "popen",
    ) -> None:
        super().__init__(process_group_backend, timeout, start_method)
        self._wraps, self._recomputes = auto_wrap_policy, activation_checkpointing_policy
        self._reshard, self._hybrid = reshard_after_forward, device_mesh is not None
        if sharding_strategy is not None:
            self._reshard, hybrid = _named_options(sharding_strategy)
            self._hybrid = self._hybrid or hybrid
        self._wanted = device_mesh
        if mixed_precision is not None and not hasattr(mixed_precision, "param_dtype"):
            check_choice(self, "mixed_precision", mixed_precision, *GATHERED_AS)
        self._policy = _policy(mixed_precision)
        self._offload = bool(getattr(cpu_offload, "offload_params", cpu_offload))
        check_choice(self, "state_dict_type", state_dict_type, "full", "sharded")
        self.sharded = state_dict_type == "sharded"

    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        processes = len(devices) * num_nodes
        self._shape: tuple[int, ...] = (processes,)
        if self._hybrid:
            self._shape = copies, parts = self._wanted or (num_nodes, len(devices))
            if copies * parts != processes or copies < 2:
                raise MisconfigurationException(
                    f"FSDPStrategy cannot keep {copies} replicas of the weights, each sharded over {parts} of the "
                    f"{processes} processes. Give device_mesh=(replicas, shards), whose product is "
                    "the number of processes, with at least 2 replicas."
                )
        super().attach(accelerator, devices, num_nodes)

    def fail(self, error: BaseException) -> BaseException:
        if "got mixed torch.Tensor and DTensor" in str(error):
            noted(error, CALLED_APART)
        return super().fail(error)

    def loads(self, module: nn.Module) -> bool:
        return self.is_global_zero or ROUTER in vars(module)

    def place(self, module: nn.Module, precision: Precision) -> None:
        if ROUTER not in vars(module):
            self._shard_module(module)
        elif self._offload:  # the shards stay in host memory
            module._apply(self._to_device)
        else:
            module.to(self.root_device)

    def _shard_module(self, module: nn.Module) -> None:
        """Shard one submodule after another, so that a device never holds the full model."""
        self._check_same_model(module)
        vars(module)["_divider"] = self.divider
        for layer in _chosen(self._recomputes, module):
            # Not by torch's wrapper, which changes names, so that peft and checkpoints would not find the layer.
            vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
        vars(module)[ROUTER] = router = StepRouter(module)  # not registered as a submodule
        names = ("copies", "parts")[-len(self._shape) :]
        # Memory can be pinned only if there is an accelerator.
        on_cpu = CPUOffloadPolicy(pin_memory=self.root_device.type != "cpu")
        shard = partial(
            fully_shard,
            mesh=init_device_mesh(self.root_device.type, self._shape, mesh_dim_names=names),
            reshard_after_forward=self._reshard,
            mp_policy=self._policy,
            offload_policy=on_cpu if self._offload else OffloadPolicy(),
        )
        sent: set[Tensor] = set()  # buffers: an outer part contains those of its inner parts
        parts = _chosen(self._wraps, module)
        _check_shared(module, parts)
        for part in [*reversed(parts), router]:
            self._place_unsharded(part, sent)
            shard(part)
        vars(module)["forward"] = _outside_steps(module.forward, router)

    def _place_unsharded(self, part: nn.Module, sent: set[Tensor]) -> None:
        """Move what is not sharded yet to the device, with rank 0's values on all ranks: each keeps a shard of them."""
        state = (*part.named_parameters(), *part.named_buffers())
        with fork_rng([self.root_device] if self.root_device.type == "cuda" else []):
            materialize(part, self.root_device, () if self.is_global_zero else dict(state))
        part._apply(self._to_device)
        buffers = [buffer for buffer in part.buffers() if buffer not in sent]
        send_first([*(p for p in part.parameters() if not isinstance(p, DTensor)), *buffers])
        sent.update(buffers)

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, DTensor) else tensor.to(self.root_device)

    def _check_same_model(self, module: nn.Module) -> None:
        """Check that all ranks have the same model, before one waits for a tensor that another lacks."""
        state = (*module.named_parameters(), *module.named_buffers())
        told = self.gather([f"{name}: {t.dtype} {tuple(t.shape)}" for name, t in state])
        for rank, own in enumerate(told):
            astray = sorted(set(own) ^ set(told[0]))
            if astray:
                raise MisconfigurationException(
                    f"processes have different models: ranks 0 and {rank} differ in {', '.join(astray[:4])}."
                )

    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        if optimizers and not getattr(module, "automatic_optimization", True):
            raise MisconfigurationException(
                "FSDP averages gradients when `training_step` has returned, and with manual optimization their "
                "optimizers have stepped by then. Use strategy='ddp', or automatic optimization."
            )
        router: Any = vars(module)[ROUTER]

        return unwrapped(
            module,
            precision,
            call=lambda name: partial(router, name),
            set_syncing=router.set_requires_gradient_sync,
            average=None,
        )

    @contextmanager
    def unevenly(self, module: nn.Module, of_each: list[list[float]]) -> Iterator[None]:
        """Keep full weights on each rank meanwhile: a forward cannot gather them where not all ranks run it."""
        router = vars(module)[ROUTER]
        parts = [part for part in router.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(self._reshard, recurse=False)

    def whole(self, state: Any) -> Any:
        if self._failed:
            raise CheckpointError(
                "the other processes are gone, and their shards of the weights too."
            )

        def gathered(part: DTensor) -> Tensor:
            # Offloaded shards are gathered through the device of the process group.
            tensor: Tensor = part.to(part.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]
            return tensor.cpu() if self.is_global_zero else tensor.new_empty(0)

        return tree_map_only(DTensor, gathered, state)

    def piece(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]] | None:
        if not isinstance(tensor, DTensor):
            return None
        mesh, placements = tensor.device_mesh, tensor.placements
        _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
        own = tensor.to_local()
        is_copy = self._hybrid and mesh.get_local_rank(0) > 0
        return own[:0] if is_copy else own, offset

    def scatter(self, whole: dict[str, Any], like: Any) -> None:
        for name, value in whole.items():
            own = like.get(name) if isinstance(like, dict) else like
            if not isinstance(own, DTensor) or not isinstance(value, Tensor):
                continue
            if not value.ndim:
                whole[name] = value.clone()  # otherwise it would hold the memory of a whole file
            elif value.shape == own.shape and not isinstance(value, DTensor):
                mesh = own.device_mesh
                value = value.to(mesh.device_type)
                # Every rank has the full tensor and copies its own shard: nothing is sent.
                there = distribute_tensor(value, mesh, own.placements, src_data_rank=None)
                whole[name] = there.to(own.device)


def _check_shared(module: nn.Module, parts: list[nn.Module]) -> None:
    """Check that layers which share a weight belong to the same part (the innermost one around each, or the rest)."""
    homes = {layer: part for part in parts for layer in part.modules()}
    found: dict[Tensor, tuple[str, nn.Module | None]] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            other, home = found.setdefault(parameter, (name, homes.get(layer)))
            if home is not homes.get(layer):
                raise MisconfigurationException(
                    f"auto_wrap_policy wraps {other} and {name} separately, which share a weight: leave out what names "
                    "the one or the other."
                )


def _outside_steps(forward: Callable[..., Any], router: StepRouter) -> Callable[..., Any]:
    """Allow calls of the module outside a step, for instance by a callback, if all ranks make them."""

    def call(*args: Any, **kwargs: Any) -> Any:
        # Outside a step, the router gathers the weights as for one, and calls this again.
        return (forward if router.running else partial(router, "forward"))(*args, **kwargs)

    return call


def _chosen(policy: Policy, module: nn.Module) -> list[nn.Module]:
    """The submodules that a policy chooses, outermost first."""
    layers = [layer for layer in module.modules() if layer is not module]
    if callable(policy):
        torchs = "recurse" in inspect.signature(policy).parameters
        chooses = partial(_ask_torch_policy, policy) if torchs else policy
        return [layer for layer in layers if chooses(layer)]
    named = [policy] if isinstance(policy, str) else policy or ()
    types = tuple(each for each in named if not isinstance(each, str))
    names = {each for each in named if isinstance(each, str)}
    known = {type(layer).__name__ for layer in layers}
    for name in names - known:
        raise MisconfigurationException(
            f"a policy of FSDPStrategy names {name!r}, and no layer is of that class.{did_you_mean(name, known)}"
        )
    return [layer for layer in layers if isinstance(layer, types) or type(layer).__name__ in names]


def _ask_torch_policy(policy: Callable[..., bool], module: nn.Module) -> bool:
    """Ask one of torch's policies, which also takes the size of the module."""
    size = sum(parameter.numel() for parameter in module.parameters())
    return policy(module=module, recurse=False, nonwrapped_numel=size)


def _policy(given: Any) -> MixedPrecisionPolicy:
    if given is None or isinstance(given, MixedPrecisionPolicy):
        return given or MixedPrecisionPolicy()
    if isinstance(given, str):  # autocast converts inputs
        return MixedPrecisionPolicy(GATHERED_AS[given], torch.float32, cast_forward_inputs=False)
    # By default FSDP1 reduces gradients in the dtype of the weights; FSDP2 does so until torch 2.14 only.
    return MixedPrecisionPolicy(given.param_dtype, given.reduce_dtype or given.param_dtype)


def _named_options(sharding_strategy: Any) -> tuple[bool, bool]:
    name = getattr(sharding_strategy, "name", str(sharding_strategy)).upper()
    if name not in STRATEGIES:
        raise MisconfigurationException(
            f"FSDPStrategy(sharding_strategy={name!r}): choose {', '.join(map(repr, STRATEGIES))}. To shard "
            "nothing, use strategy='ddp'."
        )
    return STRATEGIES[name]
