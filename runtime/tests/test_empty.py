"""Layers made empty: on torch's "meta" device, or without being initialised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime import seed_everything
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import MisconfigurationException

CPU = torch.device("cpu")


class Tied(nn.Module):
    """Two layers with one weight, a bias that only the second has, and a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


@pytest.fixture
def late(regression: Any) -> Any:
    class Late(regression):  # type: ignore[misc] # a fixture gives the class
        def __init__(self, device: str = "meta") -> None:
            super().__init__()
            self.net, self.where = None, device

        def configure_model(self) -> None:
            if self.net is None:
                with torch.device(self.where):
                    self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    return Late


def test_a_model_without_memory_trains_as_one_with(
    late: Any, make_loader: Any, make_trainer: Any
) -> None:
    found = []
    for device in ("meta", "cpu"):
        seed_everything(1)
        module = late(device)
        make_trainer(max_epochs=2).fit(module, make_loader(4))
        found.append(module.state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_it_takes_the_weights_of_a_checkpoint(
    late: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module, trainer = late("cpu"), make_trainer()
    trainer.fit(module, make_loader(4))
    trainer.save_checkpoint(file := tmp_path / "a.ckpt")

    tested = late()
    make_trainer().test(tested, make_loader(1), ckpt_path=file)
    for other in (tested, late.load_from_checkpoint(file)):
        for name, value in module.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_what_layers_share_stays_shared() -> None:
    with torch.device("meta"):
        made = Tied()
    seed_everything(1)
    materialize(made, CPU)
    seed_everything(1)
    first = nn.Linear(4, 4, bias=False)
    assert made.first.weight is made.second.weight
    assert torch.equal(made.first.weight, first.weight)
    assert made.norm.running_var.tolist() == [1, 1, 1, 1]
    assert isinstance(made.second.bias, nn.Parameter)


def test_layers_initialise_themselves_in_the_order_in_which_they_are_made() -> None:
    """Attention sets weights of a layer inside it, after that has set them."""
    found = []
    for device in ("meta", "cpu"):
        seed_everything(1)
        with torch.device(device):
            layer = nn.TransformerEncoderLayer(8, 2)
        materialize(layer, CPU)
        found.append(layer.state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_what_has_memory_keeps_its_values() -> None:
    layer = nn.Linear(4, 4)
    layer.weight.requires_grad = False
    with torch.device("meta"):
        layer.bias = nn.Parameter(torch.empty(4), requires_grad=False)
    before = layer.weight.clone()
    materialize(layer, CPU)
    assert torch.equal(layer.weight, before)
    assert layer.bias.abs().sum() > 0
    assert not layer.bias.requires_grad


def test_a_layer_that_cannot_fill_itself_is_named(
    late: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

    class Own(late):  # type: ignore[misc] # a fixture gives the class
        def configure_model(self) -> None:
            super().configure_model()
            with torch.device("meta"):
                self.net.append(Scale())

    with pytest.raises(MisconfigurationException, match=r"Scale \(net.3\) .* `reset_parameters`"):
        make_trainer().fit(Own(), make_loader(1))


def test_empty_init_leaves_weights_as_they_are(make_trainer: Any) -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 2))
            nn.init.kaiming_uniform_(self.weight)
            nn.init.constant_(tensor=self.weight, val=3)

    for empty, expected in ((True, 0), (False, 3), (None, 3)):
        with make_trainer().init_module(empty_init=empty):
            module = Three()
        assert module.weight.tolist() == [[expected] * 2] * 2
