"""Strategies: on which devices and in how many processes a run happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scaffold_runtime.accelerators import Accelerator, interactive
from scaffold_runtime.errors import MisconfigurationException, did_you_mean
from scaffold_runtime.lazy import imported_when_used
from scaffold_runtime.strategies.ddp import DDPStrategy
from scaffold_runtime.strategies.deepspeed import DeepSpeedStrategy
from scaffold_runtime.strategies.distributed import DistributedStrategy
from scaffold_runtime.strategies.environments import ClusterEnvironment, started_elsewhere
from scaffold_runtime.strategies.single_device import SingleDeviceStrategy
from scaffold_runtime.strategies.strategy import Prepared, Strategy
from scaffold_runtime.strategies.xla import XLAStrategy

if TYPE_CHECKING:
    from scaffold_runtime.strategies.fsdp import FSDPStrategy
else:  # slow to import
    __getattr__ = imported_when_used(__name__, {"FSDPStrategy": "fsdp"})

__all__ = [
    "DDPStrategy",
    "DeepSpeedStrategy",
    "DistributedStrategy",
    "FSDPStrategy",
    "Prepared",
    "SingleDeviceStrategy",
    "Strategy",
    "XLAStrategy",
    "select_strategy",
    "started_elsewhere",
]


def _fsdp(**options: Any) -> Strategy:
    from scaffold_runtime.strategies.fsdp import FSDPStrategy

    return FSDPStrategy(**options)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "single_device": SingleDeviceStrategy,
    "fsdp": _fsdp,
    "fsdp_cpu_offload": partial(_fsdp, cpu_offload=True),
    "deepspeed": DeepSpeedStrategy,
    "xla": XLAStrategy,
    "single_xla": XLAStrategy,
    "xla_spmd": partial(XLAStrategy, spmd=True),
    "xla_debug": partial(XLAStrategy, debug=True),
}
for _stage in (1, 2, 3):
    STRATEGIES[f"deepspeed_stage_{_stage}"] = partial(DeepSpeedStrategy, stage=_stage)
    STRATEGIES[f"deepspeed_stage_{_stage}_offload"] = partial(
        DeepSpeedStrategy, stage=_stage, offload_optimizer=True, offload_parameters=_stage == 3
    )
for _name, _how in {"": "popen", "_spawn": "spawn", "_fork": "fork", "_notebook": "fork"}.items():
    STRATEGIES[f"ddp{_name}"] = partial(DDPStrategy, start_method=_how)
    for _unused in (True, False):
        STRATEGIES[f"ddp{_name}_find_unused_parameters_{str(_unused).lower()}"] = partial(
            DDPStrategy, start_method=_how, find_unused_parameters=_unused
        )


def select_strategy(
    choice: str | Strategy,
    accelerator: Accelerator,
    devices: Sequence[int],
    num_nodes: int,
    environment: ClusterEnvironment | None = None,
) -> Strategy:
    """Turn the Trainer's `strategy` argument into a strategy for these devices.

    Raises:
        MisconfigurationException: for an unknown name, or one that does not fit the devices.
    """
    strategy = (
        choice
        if isinstance(choice, Strategy)
        else _named(choice, accelerator, len(devices) * num_nodes)
    )
    if isinstance(strategy, SingleDeviceStrategy) and (len(devices) > 1 or num_nodes > 1):
        raise MisconfigurationException(
            f"strategy={choice!r} is for one device, but there are {len(devices)} on {num_nodes} node(s). "
            "Write devices=1, or strategy='ddp'."
        )
    strategy.environment = environment
    strategy.attach(accelerator, devices, num_nodes)
    return strategy


def _named(choice: str, accelerator: Accelerator, devices: int) -> Strategy:
    if choice == "auto":
        several = "ddp_notebook" if interactive() else "ddp"
        choice = "single_device" if devices == 1 else several
        choice = "xla" if accelerator.name == "tpu" else choice
    if choice not in STRATEGIES:
        raise MisconfigurationException(
            f"strategy={choice!r} is unknown.{did_you_mean(str(choice), STRATEGIES)} "
            f"Choose one of: auto, {', '.join(STRATEGIES)}; or pass a Strategy."
        )
    return STRATEGIES[choice]()
