"""Trains the head first, then also the backbone, its earlier layers more slowly."""

from typing import Any

from scaffold_runtime.callbacks import BaseFinetuning
from torch.optim import Optimizer


class Unfreeze(BaseFinetuning):
    """Unfreezes at `at_epoch`; from the head down, rates fall by `slower` per layer."""

    def __init__(self, at_epoch: int = 2, slower: float = 0.5) -> None:
        super().__init__()
        self.at_epoch, self.slower = at_epoch, slower

    def freeze_before_training(self, pl_module: Any) -> None:
        if not pl_module.hparams.rank:  # with adapters the backbone stays frozen
            self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(
        self, pl_module: Any, epoch: int, optimizer: Optimizer
    ) -> None:
        if epoch != self.at_epoch or pl_module.hparams.rank:
            return
        lr = optimizer.param_groups[0]["lr"]
        layers = [each for each in pl_module.backbone if list(each.parameters())]
        for layer in reversed(layers):
            lr *= self.slower
            self.unfreeze_and_add_param_group(layer, optimizer, lr)
