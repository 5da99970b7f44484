"""Copying numbers from devices to the host without waiting for the devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaffold_runtime.entry import Scalar


class HostCopy:
    """A copy of named numbers from devices to the host, which does not wait for the devices."""

    __slots__ = ("events", "floats", "host")

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self.floats: dict[str, Any] = dict(values)
        self.host: list[tuple[list[str], Tensor]] = []
        self.events: list[torch.cuda.Event] = []  # one for each device
        remote: dict[torch.device, list[str]] = {}
        for name, value in values.items():
            if isinstance(value, Tensor) and value.device.type == "cpu":
                self.floats[name] = float(value)
            elif isinstance(value, Tensor):
                remote.setdefault(value.device, []).append(name)
        for device, names in remote.items():
            # In 64 bits, if the device has them, large counters stay exact.
            wide = torch.float64 if device.type == "cuda" else torch.float32
            stacked = torch.stack([self.floats[name].to(wide) for name in names])
            if device.type == "cuda":
                pinned = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
                self.host.append((names, pinned.copy_(stacked, non_blocking=True)))
                self.events.append(torch.cuda.current_stream(device).record_event())
            else:
                self.host.append((names, stacked.cpu()))

    def arrived(self) -> bool:
        return all(event.query() for event in self.events)

    def read(self) -> dict[str, float]:
        """The numbers, in the order given; waits until they have arrived."""
        for event in self.events:
            event.synchronize()
        for names, host in self.host:
            self.floats.update(zip(names, host.tolist(), strict=True))
        return {name: float(value) for name, value in self.floats.items()}


class Newest:
    """The newest numbers that have arrived, for repeated requests: at most one copy is in progress."""

    def __init__(self) -> None:
        self._copy: HostCopy | None = None
        self._arrived: dict[str, float] = {}

    def of(self, values: Mapping[str, Scalar]) -> dict[str, float]:
        self._receive()
        if self._copy is None and values:
            self._copy = HostCopy(values)
            self._receive()
        return self._arrived

    def _receive(self) -> None:
        if self._copy is not None and self._copy.arrived():
            self._arrived, self._copy = self._copy.read(), None
