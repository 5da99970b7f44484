"""Numbers on their way from devices to the host, without waiting for the devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scaffold_runtime.entry import Scalar


class HostCopy:
    """Numbers on their way from a device to the host, without waiting for the device."""

    __slots__ = ("events", "floats", "host")

    def __init__(self, values: Iterable[Scalar]) -> None:
        self.floats: list[Any] = [
            float(value) if isinstance(value, Tensor) and value.device.type == "cpu" else value
            for value in values
        ]
        self.host: list[tuple[list[int], Tensor]] = []
        self.events: list[torch.cuda.Event] = []  # one for each device
        remote: dict[torch.device, list[int]] = {}
        for index, value in enumerate(self.floats):
            if isinstance(value, Tensor):
                remote.setdefault(value.device, []).append(index)
        for device, indices in remote.items():
            # Large counters stay exact where the device can.
            wide = torch.float64 if device.type == "cuda" else torch.float32
            stacked = torch.stack([self.floats[i].to(wide) for i in indices])
            if device.type == "cuda":
                pinned = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
                self.host.append((indices, pinned.copy_(stacked, non_blocking=True)))
                self.events.append(torch.cuda.current_stream(device).record_event())
            else:
                self.host.append((indices, stacked.cpu()))

    def arrived(self) -> bool:
        return all(event.query() for event in self.events)

    def read(self) -> list[float]:
        """The numbers, in the order given; waits if they are still on their way."""
        for event in self.events:
            event.synchronize()
        for indices, host in self.host:
            for index, number in zip(indices, host.tolist(), strict=True):
                self.floats[index] = number
        return [float(value) for value in self.floats]


class Newest:
    """The newest numbers that have arrived, of those asked for again and again: one copy is under way at most."""

    def __init__(self) -> None:
        self._copy: HostCopy | None = None
        self._names: list[str] = []
        self._arrived: dict[str, float] = {}

    def of(self, values: Mapping[str, Scalar]) -> dict[str, float]:
        self._take()
        if self._copy is None and values:
            self._names, self._copy = list(values), HostCopy(values.values())
            self._take()
        return self._arrived

    def _take(self) -> None:
        if self._copy is not None and self._copy.arrived():
            self._arrived = dict(zip(self._names, self._copy.read(), strict=True))
            self._copy = None
