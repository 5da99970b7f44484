"""Strategies: on which devices and in how many processes a run happens."""

from scaffold_runtime.strategies.base import Prepared, Strategy
from scaffold_runtime.strategies.single import SingleDeviceStrategy

__all__ = ["Prepared", "SingleDeviceStrategy", "Strategy", "select_strategy"]

from collections.abc import Sequence

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.errors import MisconfigurationException


def select_strategy(
    choice: str | Strategy, accelerator: Accelerator, devices: Sequence[int], num_nodes: int
) -> Strategy:
    """Turn the Trainer's `strategy` argument into a strategy for these devices.

    Raises:
        MisconfigurationException: for an unknown name, or one that does not fit the devices.
    """
    if isinstance(choice, Strategy):
        return choice
    if choice in ("auto", "single_device") and len(devices) == 1 and num_nodes == 1:
        return SingleDeviceStrategy(accelerator.device(devices[0]))
    raise MisconfigurationException(
        f"strategy={choice!r} with {len(devices)} device(s) on {num_nodes} node(s) is not available in this "
        "version, which trains in one process. Write devices=1 and strategy='auto'."
    )
