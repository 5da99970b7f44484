"""Pretrained backbones, and LoRA adapters for them."""

from typing import Any

import torch
from scaffold_runtime.errors import MisconfigurationException, MissingExtra
from torch import Tensor, nn
from torch.nn.functional import interpolate

FEATURES = 64


def digits_backbone() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, FEATURES),
        nn.ReLU(),
    )


def make_backbone(name: str) -> tuple[nn.Module, int]:
    """A backbone for images (N, 1, H, W), and the number of its features."""
    try:
        return find_backbone(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"model.backbone is {name!r}: pip install {error.name}, or choose digits."
        ) from None


def find_backbone(name: str) -> tuple[nn.Module, int]:
    library, _, model = name.partition("/")
    if name == "digits":
        return digits_backbone(), FEATURES
    if library == "torchvision":
        from torchvision.models import get_model

        network = get_model(model, weights="DEFAULT")
        features, network.fc = network.fc.in_features, nn.Identity()
        return nn.Sequential(ToPhotos(), network), features
    if library == "transformers":
        from transformers import AutoModel

        network = AutoModel.from_pretrained(model)
        return nn.Sequential(ToPhotos(), Pooled(network)), network.config.hidden_size
    raise MisconfigurationException(
        f"model.backbone is {name!r}: choose digits, torchvision/NAME "
        "or transformers/NAME."
    )


class ToPhotos(nn.Module):
    """Grey images as ImageNet networks expect them: 3 x 224 x 224, normalized."""

    def forward(self, images: Tensor) -> Tensor:
        return (interpolate(images.expand(-1, 3, -1, -1), 224) - 0.45) / 0.225


class Pooled(nn.Module):
    """A transformer, followed by the mean over its tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).last_hidden_state.mean(dim=1)


class LoRA(nn.Module):
    """LoRA: a frozen layer plus a low-rank update, which starts at zero."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down: nn.Linear | nn.Conv2d
        self.up: nn.Linear | nn.Conv2d
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            same: Any = layer.kernel_size, layer.stride, layer.padding
            self.down = nn.Conv2d(layer.in_channels, rank, *same)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + self.up(self.down(inputs))


def add_adapters(network: nn.Module, rank: int) -> None:
    """Freeze a network, and add adapters to its convolutions and linear layers."""
    network.requires_grad_(False)
    for name, layer in list(network.named_children()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            setattr(network, name, LoRA(layer, rank))
        else:
            add_adapters(layer, rank)


def load_backbone(network: nn.Module, path: str) -> None:
    """Load weights from a file; adapters keep theirs."""
    own = network.state_dict()
    for name, weight in torch.load(path, weights_only=True).items():
        if name not in own:  # this layer is inside an adapter
            name = name.replace(".", ".layer.")
        own[name].copy_(weight)
