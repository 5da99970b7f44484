"""DeepSpeed: optimizer states, gradients and weights sharded over processes by its engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.data import convert_floats
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import CheckpointError, MisconfigurationException, StepError
from scaffold_runtime.extras import require
from scaffold_runtime.precision import Precision
from scaffold_runtime.strategies.deepspeed_config import (
    FORMATS,
    SAMPLES,
    complete_config,
    read_config,
    stage_of,
)
from scaffold_runtime.strategies.distributed import DistributedStrategy
from scaffold_runtime.strategies.router import StepRouter
from scaffold_runtime.strategies.strategy import Prepared, unwrapped

ENGINES: WeakSet[Any] = WeakSet()  # all that exist, of any strategy
TAG = "checkpoint"  # DeepSpeed's name for one save among several in a folder
LOAD = "_load_from_state_dict"  # the method by which torch has each layer load its own weights
NEEDED = ("deepspeed", "scaffold-runtime[deepspeed]", "strategy='deepspeed'")


class DeepSpeedStrategy(DistributedStrategy):
    """Train with DeepSpeed's ZeRO. Its engine accumulates, clips, scales and steps, as set on the Trainer.

    Args:
        accelerator: accepted for compatibility with Lightning; the trainer decides.
        zero_optimization: shard at all; False is stage 0.
        stage: of ZeRO: 1 shards optimizer states, 2 gradients too, 3 weights too.
        offload_optimizer: keep optimizer states on `offload_optimizer_device`.
        offload_parameters: keep weights on `offload_params_device`; stage 3 only.
        offload_optimizer_device: "cpu" or "nvme".
        offload_params_device: "cpu" or "nvme".
        nvme_path: the folder for what is offloaded to "nvme".
        pin_memory: keep what is offloaded in pinned memory.
        allgather_bucket_size: elements per collective when weights are gathered.
        reduce_bucket_size: elements per collective when gradients are reduced.
        logging_batch_size_per_gpu: the batch size for DeepSpeed's throughput messages.
        config: DeepSpeed's own configuration, a dict or the path of a JSON file, in place of the arguments
            above. What the trainer decides (accumulation, clipping, precision) may be left out or "auto".
        exclude_frozen_parameters: leave frozen weights out of checkpoints.
        parallel_devices: accepted for compatibility with Lightning; the trainer decides.
        process_group_backend: "nccl", "gloo" or another; by default what fits the device.
        timeout: of collectives, after which a process counts as lost.

    Raises:
        MissingExtra: if DeepSpeed is not installed.
        MisconfigurationException: if the configuration cannot be read.
    """

    sharded = owns_state = divides = True

    def __init__(
        self,
        accelerator: Any = None,
        zero_optimization: bool = True,
        stage: int = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        offload_optimizer_device: str = "cpu",
        offload_params_device: str = "cpu",
        nvme_path: str = "/local_nvme",
        pin_memory: bool = False,
        allgather_bucket_size: int = 200_000_000,
        reduce_bucket_size: int = 200_000_000,
        logging_batch_size_per_gpu: int | str = "auto",
        config: Mapping[str, Any] | str | Path | None = None,
        exclude_frozen_parameters: bool = False,
        parallel_devices: Any = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        super().__init__(process_group_backend, timeout)
        zero: dict[str, Any] = {
            "stage": stage if zero_optimization else 0,
            "allgather_bucket_size": allgather_bucket_size,
            "reduce_bucket_size": reduce_bucket_size,
        }
        offloaded = {
            "offload_optimizer": offload_optimizer and offload_optimizer_device,
            "offload_param": offload_parameters and offload_params_device,
        }
        for name, device in offloaded.items():
            if device:
                place = {"nvme_path": nvme_path} if device == "nvme" else {}
                zero[name] = {"device": device, "pin_memory": pin_memory, **place}
        self.config = {"zero_optimization": zero, SAMPLES: logging_batch_size_per_gpu}
        if config is not None:
            self.config = read_config(config)
        self.stage = stage_of(self.config)
        self.divider = "DeepSpeed's stage 3" if self.stage == 3 else None
        self._excludes_frozen = exclude_frozen_parameters
        self._engine: Any = None

    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        numbers = [accelerator.device(each).index for each in devices]
        if None not in numbers and numbers != list(range(len(numbers))):
            raise MisconfigurationException(
                f"DeepSpeed uses the first devices of a machine, but Trainer(devices={numbers}) names others. Hide "
                f"the rest: CUDA_VISIBLE_DEVICES={','.join(map(str, numbers))}, and devices={len(numbers)}."
            )
        super().attach(accelerator, devices, num_nodes)

    def launch(self, call: Callable[[], Any], obeys: bool) -> Callable[[], Any] | None:
        require(*NEEDED)  # before other processes are started
        return super().launch(call, obeys)

    @property
    def _library(self) -> Any:
        os.environ.setdefault("DS_ACCELERATOR", self.root_device.type)
        os.environ.setdefault("LOCAL_RANK", str(self.local_rank))  # not every launcher sets it
        return require(*NEEDED)

    # -- sharded weights ----------------------------------------------------------------------------

    def place(self, module: Any, precision: Precision) -> None:
        if self.stage < 3:
            super().place(module, precision)
            return
        module._divider = self.divider
        # Neither host nor device may have room for the full model.
        config = complete_config(self.config, module.trainer)
        dtype = FORMATS[precision.precision][1]
        materialize(module, torch.device("cpu"), then=partial(self._shard_layer, config, dtype))

    def _shard_layer(self, config: dict[str, Any], dtype: torch.dtype, layer: nn.Module) -> None:
        """Shard a layer's own weights one by one, in the dtype of the computation."""
        own = list(layer.parameters(recurse=False))
        bring_to(dtype, own)
        if not all(map(is_divided, own)):
            self._library.zero.Init(nn.ParameterList(own), config_dict_or_path=config)

    @contextmanager
    def filling(self, module: nn.Module) -> Iterator[None]:
        """Gather one layer after another while it loads its own weights."""
        layers = [m for m in module.modules() if any(map(is_divided, m.parameters(recurse=False)))]
        for layer in layers:
            vars(layer)[LOAD] = partial(self._load_layer, layer, getattr(layer, LOAD))
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)[LOAD]

    def _load_layer(self, layer: nn.Module, load: Callable[..., None], *given: Any) -> None:
        own = list(layer.parameters(recurse=False))
        with self._library.zero.GatheredParameters(own, modifier_rank=0):
            load(*given)

    # -- training -----------------------------------------------------------------------------------

    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        known = self._engine is not None and self._engine.module.module is module
        if optimizers or (self.stage == 3 and not known):
            self._start(module, optimizers)
        elif not known:
            return unwrapped(module, precision)  # every rank holds the full weights
        return self._prepared(module, FORMATS[precision.precision][1])

    def _start(self, module: Any, optimizers: list[Optimizer]) -> None:
        config = complete_config(self.config, module.trainer)
        for engine in list(ENGINES):
            if engine is self._engine or engine.module.module is module:
                engine.destroy()  # its hooks would stay on the module, also under another trainer
        if self.stage == 3:  # otherwise DeepSpeed would first move the full model to the device
            for layer in module.modules():
                self._shard_layer(config, FORMATS[module.trainer.precision][1], layer)
            module.to(self.root_device)  # its buffers
        self._engine, *_ = self._library.initialize(
            model=StepRouter(module),
            model_parameters=[p for p in module.parameters() if p.requires_grad],
            optimizer=only_one(optimizers),
            config=config,
            dist_init_required=False,
        )
        ENGINES.add(self._engine)
        for optimizer in optimizers:
            # The engine clears gradients itself, and needs their memory to stay in place.
            vars(optimizer)["zero_grad"] = lambda set_to_none=True: None

    def _prepared(self, module: nn.Module, dtype: torch.dtype) -> Prepared:
        engine = self._engine
        engine.set_gradient_accumulation_boundary(True)  # unless the loop sets another

        def call(name: str) -> Callable[..., Any]:
            routed = name == "training_step" or self.stage == 3
            step = partial(engine, name) if routed else getattr(module, name)
            return (
                step if dtype is torch.float32 else lambda *args: step(*convert_floats(args, dtype))
            )

        def backward(loss: Tensor, run_backward: Callable[[Tensor], None]) -> None:
            if run_backward is Tensor.backward:
                # The loop has divided the loss. Without `* 1` DeepSpeed would divide it again if the step returned it.
                engine.backward(loss * 1, scale_wrt_gas=False)
            else:  # a custom backward cannot tell DeepSpeed not to divide again
                run_backward(engine.scale(loss * engine.gradient_accumulation_steps()))

        def step(
            optimizer: Optimizer, closure: Callable[[], Any] | None = None, **given: Any
        ) -> None:
            if closure is not None:
                closure()
            engine.step()  # clips, steps, and clears gradients

        def clip(parameters: list[nn.Parameter], limit: float, algorithm: str) -> None:
            if algorithm != "norm" or limit != engine.gradient_clipping():
                raise StepError(
                    f"gradients cannot be clipped at {limit} here: DeepSpeed keeps them, and clips while it steps. "
                    "Set Trainer(gradient_clip_val=...), or `gradient_clipping` in its configuration."
                )

        return Prepared(
            call=call,
            backward=backward,
            unscale=lambda optimizer: None,
            step=step,
            clip=clip,
            set_syncing=engine.set_gradient_accumulation_boundary,
        )

    # -- checkpoints --------------------------------------------------------------------------------

    def save_engine(self, folder: Path) -> None:
        if self._failed or self._engine is None:
            raise CheckpointError(
                "there is nothing that DeepSpeed could save: it has not trained, or other processes are gone, "
                "and their shards too."
            )
        self._engine.save_checkpoint(
            str(folder), tag=TAG, exclude_frozen_parameters=self._excludes_frozen
        )

    def reads_engine(self, fn: str) -> bool:
        return fn == "fit" or self.stage == 3

    def load_engine(self, folder: Path, optimizers: bool) -> None:
        try:
            self._engine.load_checkpoint(
                str(folder),
                tag=TAG,
                load_optimizer_states=optimizers,
                load_lr_scheduler_states=False,
                load_module_only=not optimizers,
            )
        except Exception as error:
            raise CheckpointError(
                f"DeepSpeed cannot load {folder} with {self.world_size} processes at stage {self.stage}: {error}"
            ) from error


def is_divided(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed has sharded a parameter, so that this rank holds only a part of it."""
    return hasattr(parameter, "ds_id")


def bring_to(dtype: torch.dtype, parameters: Iterable[Any]) -> None:
    """Cast weights to the dtype that DeepSpeed computes in, before it shards them.

    Raises:
        MisconfigurationException: if they are sharded already, in another dtype.
    """
    for parameter in parameters:
        own = parameter.ds_tensor if is_divided(parameter) else parameter
        if own.is_floating_point() and own.dtype != dtype:
            if own is not parameter:
                raise MisconfigurationException(
                    f"the weights were sharded as {own.dtype} in an earlier run, and this one computes in {dtype}. "
                    "Use the same precision, or take a new module and the weights of a checkpoint."
                )
            parameter.data = own.data.to(dtype)


def whole_weights(folder: Path) -> dict[str, Tensor]:
    """Full weights in 32 bits under plain names, assembled from what the engine saved, at any stage."""
    tool = require("deepspeed.utils.zero_to_fp32", *NEEDED[1:])
    weights: dict[str, Tensor] = {}
    file = folder / TAG / "mp_rank_00_model_states.pt"
    if file.exists():  # before stage 3: all weights, but in the dtype of the computation
        weights = dict(torch.load(file, map_location="cpu", weights_only=True)["module"])
    if any((folder / TAG).glob("*_optim_states.pt")):
        with redirect_stdout(StringIO()):
            weights |= tool.get_fp32_state_dict_from_zero_checkpoint(str(folder), TAG)
    return {name.removeprefix("module."): value for name, value in weights.items()}


def only_one(optimizers: list[Optimizer]) -> Optimizer | None:
    """The optimizer that DeepSpeed is to step.

    Raises:
        MisconfigurationException: if there are several, or one is LBFGS, which evaluates the loss itself.
    """
    if len(optimizers) > 1 or any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise MisconfigurationException(
            f"DeepSpeed steps one optimizer, and not LBFGS; `configure_optimizers` returned {kinds}. "
            "Return one (it may have several parameter groups), or use strategy='ddp'."
        )
    return next(iter(optimizers), None)
