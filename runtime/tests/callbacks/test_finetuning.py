"""BaseFinetuning and BackboneFinetuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from scaffold_runtime.callbacks import BackboneFinetuning, BaseFinetuning, LambdaCallback
from scaffold_runtime.errors import MisconfigurationException


@pytest.fixture
def tuned(regression) -> Any:
    """A module with a backbone that has batch norm, and a head."""

    class Tuned(regression):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
            self.net = nn.Linear(8, 1)

        def forward(self, x: Any) -> Any:
            return self.net(self.backbone(x))

        def configure_optimizers(self) -> Any:
            trained = filter(lambda p: p.requires_grad, self.parameters())
            return torch.optim.Adam(trained, lr=0.1)

    return Tuned


def train(tuned: Any, trainer: Any, loader: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    module = tuned()
    trainer.fit(module, loader, **arguments)
    return module


def test_the_backbone_is_frozen_then_trained_at_rising_rates(
    tuned, make_loader, make_trainer
) -> None:
    rates: list[list[float]] = []
    frozen: list[torch.Tensor] = []

    def note(trainer: Any, module: Any) -> None:
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        frozen.append(module.backbone[0].weight.clone())

    callbacks = [
        BackboneFinetuning(2, lambda epoch: 5.0, backbone_initial_ratio_lr=0.1),
        LambdaCallback(on_train_epoch_end=note),
    ]
    train(tuned, make_trainer(max_epochs=5, callbacks=callbacks), make_loader())

    assert rates == [[0.1], [0.1], [0.1, pytest.approx(0.01)], [0.1, pytest.approx(0.05)], [0.1, 0.1]]  # fmt: skip
    assert torch.equal(frozen[0], frozen[1])
    assert not torch.equal(frozen[1], frozen[2])


def test_train_bn_decides_whether_batch_norm_learns(tuned, make_loader, make_trainer) -> None:
    module = tuned()
    BaseFinetuning.freeze(module.backbone, train_bn=False)
    assert not any(p.requires_grad for p in module.backbone.parameters())
    assert not module.backbone[1].track_running_stats

    BaseFinetuning.freeze(module.backbone, train_bn=True)
    assert module.backbone[1].weight.requires_grad
    assert not module.backbone[0].weight.requires_grad

    BaseFinetuning.make_trainable([module.backbone])
    assert len(list(BaseFinetuning.filter_params(module.backbone, train_bn=False))) == 2


@pytest.mark.parametrize("batch", [5, 11, 14])
def test_a_resumed_finetuning_is_exact(batch: int, tuned, make_loader, make_trainer) -> None:
    def save(trainer: Any, module: Any, *_: Any) -> None:
        if trainer.progress.batches == batch:
            trainer.save_checkpoint("mid.ckpt")

    def again(**arguments: Any) -> Any:
        callbacks = [BackboneFinetuning(1), LambdaCallback(on_train_batch_end=save)]
        trainer = make_trainer(max_epochs=4, callbacks=callbacks)
        return train(tuned, trainer, make_loader(4, shuffle=True), **arguments)

    expected = again().state_dict()
    resumed = again(ckpt_path="mid.ckpt").state_dict()

    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "warmup": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 20)], [4]
    ),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_go_on_with_the_groups_they_know(
    scheduler, tuned, make_loader, make_trainer
) -> None:
    rates: list[list[float]] = []

    class Scheduled(tuned):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [{"scheduler": scheduler(optimizer), "interval": "step"}]

    def note(trainer: Any, module: Any, *_: Any) -> None:
        rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        if trainer.progress.batches == 10:
            trainer.save_checkpoint("mid.ckpt")

    def again(finetuning: Any, **arguments: Any) -> Any:
        rates.clear()
        callbacks = [*finetuning, LambdaCallback(on_train_batch_end=note)]
        trainer = make_trainer(max_epochs=4, callbacks=callbacks)
        return train(Scheduled, trainer, make_loader(4), **arguments).state_dict()

    again([])
    alone = [rate for (rate,) in rates]
    expected = again([BackboneFinetuning(1, backbone_initial_lr=1e-3, should_align=False)])
    assert [first for first, *_ in rates] == alone
    assert [later for _, *later in rates] == 4 * [[]] + 4 * [[1e-3]] + 4 * [[2e-3]] + 4 * [[4e-3]]

    resumed = again([BackboneFinetuning(1, should_align=False)], ckpt_path="mid.ckpt")
    assert [first for first, *_ in rates] == alone[10:]
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


def test_a_scheduler_that_takes_any_group_changes_new_ones_too(
    tuned, make_loader, make_trainer
) -> None:
    class Scheduled(tuned):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            inner = [lr_scheduler.ExponentialLR(optimizer, 0.5)]
            return [optimizer], [lr_scheduler.ChainedScheduler(inner)]

    trainer = make_trainer(max_epochs=2, callbacks=BackboneFinetuning(1, backbone_initial_lr=1e-3))
    train(Scheduled, trainer, make_loader())

    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.025, 5e-4]


def test_what_was_unfrozen_stays_unfrozen_after_resume(tuned, make_loader, make_trainer) -> None:
    def save(trainer: Any, module: Any, *_: Any) -> None:
        if trainer.progress.batches == 6:
            trainer.save_checkpoint("mid.ckpt")

    class Once(BaseFinetuning):
        """Unfreeze in one epoch, say nothing in others."""

        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone, train_bn=False)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.01)

    callbacks = [Once(), LambdaCallback(on_train_batch_end=save)]
    train(tuned, make_trainer(max_epochs=2, callbacks=callbacks), make_loader(4))
    trainer = make_trainer(max_epochs=3, callbacks=Once())
    module = train(tuned, trainer, make_loader(4), ckpt_path="mid.ckpt")

    assert all(p.requires_grad for p in module.backbone.parameters())
    assert module.backbone[1].track_running_stats
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.01]


def test_parameters_the_optimizer_has_are_left_there(tuned) -> None:
    module = tuned()
    BaseFinetuning.freeze(module.backbone)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    with pytest.warns(UserWarning, match="already in the optimizer"):
        BaseFinetuning.unfreeze_and_add_param_group(module.backbone, optimizer)
    assert len(optimizer.param_groups) == 1


def test_a_module_without_backbone_is_refused(regression, make_loader, make_trainer) -> None:
    with pytest.raises(MisconfigurationException, match="`backbone`"):
        make_trainer(callbacks=BackboneFinetuning()).fit(regression(), make_loader())


def test_layers_made_in_configure_model_are_frozen(tuned, make_loader, make_trainer) -> None:
    class Late(tuned):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = None

        def setup(self, stage: str) -> None:
            self.width = 8

        def configure_model(self) -> None:
            if self.backbone is None:
                self.backbone = nn.Sequential(nn.Linear(4, self.width), nn.BatchNorm1d(8))

    sizes: list[int] = []
    note = LambdaCallback(
        on_train_epoch_end=lambda t, m: sizes.append(len(t.optimizers[0].param_groups))
    )
    callbacks = [BackboneFinetuning(1, verbose=False), note]
    module = train(Late, make_trainer(max_epochs=2, callbacks=callbacks), make_loader())

    assert sizes == [1, 2]
    assert all(p.requires_grad for p in module.backbone.parameters())
