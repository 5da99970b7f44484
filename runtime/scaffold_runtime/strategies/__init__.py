"""Strategies: on which devices and in how many processes a run happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.errors import MisconfigurationException, did_you_mean
from scaffold_runtime.strategies.ddp import DDPStrategy
from scaffold_runtime.strategies.distributed import DistributedStrategy
from scaffold_runtime.strategies.environments import ClusterEnvironment, started_elsewhere
from scaffold_runtime.strategies.single_device import SingleDeviceStrategy
from scaffold_runtime.strategies.strategy import Prepared, Strategy

if TYPE_CHECKING:
    from scaffold_runtime.strategies.fsdp import FSDPStrategy

__all__ = [
    "DDPStrategy",
    "DistributedStrategy",
    "FSDPStrategy",
    "Prepared",
    "SingleDeviceStrategy",
    "Strategy",
    "select_strategy",
    "started_elsewhere",
]


def __getattr__(name: str) -> Any:
    if name == "FSDPStrategy":  # imported when asked for: its parts of torch take long to import
        from scaffold_runtime.strategies.fsdp import FSDPStrategy

        return FSDPStrategy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _fsdp(**options: Any) -> Strategy:
    from scaffold_runtime.strategies.fsdp import FSDPStrategy

    return FSDPStrategy(**options)


def _ddp(method: str, **options: Any) -> Callable[[], Strategy]:
    return lambda: DDPStrategy(start_method=method, **options)


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "single_device": SingleDeviceStrategy,
    "fsdp": lambda: _fsdp(),
    "fsdp_cpu_offload": lambda: _fsdp(cpu_offload=True),
}
for _name, _method in {
    "": "popen",
    "_spawn": "spawn",
    "_fork": "fork",
    "_notebook": "fork",
}.items():
    STRATEGIES[f"ddp{_name}"] = _ddp(_method)
    for _unused in (True, False):
        STRATEGIES[f"ddp{_name}_find_unused_parameters_{str(_unused).lower()}"] = _ddp(
            _method, find_unused_parameters=_unused
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
    strategy = choice if isinstance(choice, Strategy) else _named(choice, len(devices), num_nodes)
    if isinstance(strategy, SingleDeviceStrategy) and (len(devices) > 1 or num_nodes > 1):
        raise MisconfigurationException(
            f"strategy={choice!r} is for one device, but there are {len(devices)} on {num_nodes} node(s). "
            "Write devices=1, or strategy='ddp'."
        )
    strategy.environment = environment
    strategy.attach(accelerator, devices, num_nodes)
    return strategy


def _named(choice: str, devices: int, num_nodes: int) -> Strategy:
    if choice == "auto":
        several = "ddp_notebook" if hasattr(sys, "ps1") or "ipykernel" in sys.modules else "ddp"
        choice = "single_device" if devices == 1 and num_nodes == 1 else several
    if choice not in STRATEGIES:
        raise MisconfigurationException(
            f"strategy={choice!r} is unknown.{did_you_mean(str(choice), STRATEGIES)} "
            f"Choose one of: auto, {', '.join(STRATEGIES)}; or pass a Strategy."
        )
    return STRATEGIES[choice]()
