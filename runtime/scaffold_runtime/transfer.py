"""Moving batches to the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from scaffold_runtime.data import can_move, convert_floats, map_leaves, move_data_to_device

if TYPE_CHECKING:
    from scaffold_runtime.run import Run

PLAIN = (torch.Tensor, list, tuple, dict)


def make_transfer(run: Run) -> Callable[[Any, int], Any]:
    """(batch, loader) -> the batch on the device, through overridden hooks only."""
    device, precision = run.trainer.strategy.root_device, run.precision
    before = _data_hook(run, "on_before_batch_transfer")
    move = _data_hook(run, "transfer_batch_to_device")
    after = _data_hook(run, "on_after_batch_transfer")
    if not (before or move or after or precision.converts_inputs) and device.type == "cpu":
        # Tensors are on the CPU already; a custom batch type may do more when moved (a TensorDict notes the device).
        return lambda batch, _: (
            batch if type(batch) in PLAIN else move_data_to_device(batch, device)
        )

    cuda = device.type == "cuda"
    usual = SideStream(device).move if cuda else partial(move_data_to_device, device=device)

    def transfer(batch: Any, loader: int) -> Any:
        batch = before(batch, loader) if before else batch
        batch = move(batch, device, loader) if move else usual(batch)
        # Converted on the device: on the host the copy would no longer be in pinned memory, and cost host time.
        if precision.converts_inputs:
            batch = convert_floats(batch, precision.dtype)
        return after(batch, loader) if after else batch

    return transfer


class SideStream:
    """Copies batches on a stream of its own, while the device still computes earlier steps.

    The host runs ahead of the device, so no batch is drawn early: the data position in a checkpoint stays that
    of training. But torch reuses the memory of a batch only when it sees that the device is done with it. So a
    host that is `AHEAD` steps ahead waits for the oldest of them, as FSDP does for gathered weights; the device
    stays busy with the others.
    """

    AHEAD = 4

    def __init__(self, device: torch.device) -> None:
        self._device, self._module = device, torch.get_device_module(device)
        self._stream = self._module.Stream()
        self._steps: deque[Any] = deque()  # end events of steps that may still be running

    def move(self, batch: Any) -> Any:
        """`batch` on the device; work queued from now on waits for it."""
        computing = self._module.current_stream()
        ended = self._module.Event()
        ended.record(computing)
        self._steps.append(ended)
        if len(self._steps) > self.AHEAD:
            self._steps.popleft().synchronize()

        def move(leaf: Any) -> Any:
            if not can_move(leaf):
                return leaf
            dense = isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
            if not dense or leaf.is_nested or leaf.device.type != "cpu":
                with self._module.stream(computing):  # `record_stream` handles only dense tensors
                    return move_data_to_device(leaf, self._device)
            moved = leaf.to(self._device, non_blocking=True)
            if moved.device.type != "cpu":  # its memory is reused only when that stream is done
                moved.record_stream(computing)
            return moved

        with self._module.stream(self._stream):
            moved = map_leaves(batch, move)
        computing.wait_stream(self._stream)
        return moved


def _data_hook(run: Run, name: str) -> Callable[..., Any] | None:
    owner = run.feed.owner_of(name)
    return None if owner is None else getattr(owner, name)
