"""The side stream on which batches travel to a GPU. A CPU has streams in torch's interface, too: there is one
queue, but which stream is current is real. The copy itself beside a computation: `gpu/test_one_gpu.py`.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from scaffold_runtime.strategies import SingleDeviceStrategy
from scaffold_runtime.transfer import SideStream

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "x y")


class Watched(torch.Tensor):
    """Notes on which stream it is copied."""

    seen: list[Any] = []

    def to(self, *arguments: Any, **options: Any) -> Any:
        self.seen.append((torch.cpu.current_stream(), options))
        return super().to(*arguments, **options)


class Graph:
    """A batch of a type of its own: it moves itself."""

    def to(self, device: Any) -> tuple[str, Any]:
        return "moved", torch.cpu.current_stream()


def test_tensors_travel_on_the_side_stream_and_the_rest_on_the_one_that_computes() -> None:
    side, computing = SideStream(CPU), torch.cpu.current_stream()
    x, y = torch.ones(2), torch.zeros(3)
    Watched.seen.clear()

    moved = side.move({"pair": Pair(x.as_subclass(Watched), [y, "name"]), "graph": Graph()})

    assert type(moved["pair"]) is Pair and torch.equal(moved["pair"].x, x)
    assert torch.equal(moved["pair"].y[0], y) and moved["pair"].y[1] == "name"
    assert moved["graph"] == ("moved", computing)
    assert Watched.seen == [(side._stream, {"non_blocking": True})]
    assert torch.cpu.current_stream() is computing is not side._stream


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_tensors_of_many_lengths_travel_on_the_stream_that_computes() -> None:
    """Torch cannot record for them that another stream uses their memory."""
    side = SideStream(CPU)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)])
    Watched.seen.clear()
    moved = side.move([nested.as_subclass(Watched), torch.ones(1)])
    assert [part.numel() for part in moved[0].unbind()] == [2, 3]
    assert Watched.seen == [(torch.cpu.current_stream(), {})]


def test_a_host_far_ahead_waits_for_the_oldest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the batches of all steps that it is ahead by would lie on the device."""
    said: list[tuple[str, int]] = []

    class Event:
        made = 0

        def __init__(self) -> None:
            Event.made += 1
            self.number = Event.made

        def record(self, stream: Any) -> None:
            assert stream is torch.cpu.current_stream()
            said.append(("recorded", self.number))

        def synchronize(self) -> None:
            said.append(("waited", self.number))

    monkeypatch.setattr(torch.cpu, "Event", Event)
    side = SideStream(CPU)
    for _ in range(SideStream.AHEAD + 2):
        side.move(torch.ones(1))

    ahead = [("recorded", number) for number in range(1, SideStream.AHEAD + 1)]
    after = SideStream.AHEAD + 1
    rest = [("recorded", after), ("waited", 1), ("recorded", after + 1), ("waited", 2)]
    assert said == ahead + rest


def test_cuda_without_a_number_is_the_device_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cuda:1", "cpu"):
        strategy = SingleDeviceStrategy()
        strategy.root_device = torch.device(device)
        strategy.open()
    assert chosen == [torch.device("cuda", 1)]


def test_number_formats_are_converted_where_the_batch_has_arrived(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[tuple[str, torch.dtype]] = []

    class Watching(regression):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            seen.append(("moved", batch[0].dtype))
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append(("arrived", batch[0].dtype))
            return batch

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(("step", batch[0].dtype))
            return super().training_step(batch, batch_idx)

    make_trainer(precision="bf16-true").fit(Watching(), make_loader(1))

    half = torch.bfloat16
    assert seen == [("moved", torch.float32), ("arrived", half), ("step", half)]


def test_a_batch_of_a_type_of_its_own_is_told_the_device_on_a_cpu_too(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Batch(list):  # type: ignore[type-arg] # of two tensors
        device = None

        def to(self, device: Any) -> Batch:
            self.device = device
            return self

    seen: list[Any] = []

    class Watching(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(batch.device)
            return super().training_step(batch, batch_idx)

    loader = make_loader(2, collate_fn=lambda rows: Batch(default_collate(rows)))
    make_trainer().fit(Watching(), loader)
    assert seen == [CPU, CPU]
