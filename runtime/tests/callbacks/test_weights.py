"""WeightAveraging, EMAWeightAveraging, StochasticWeightAveraging."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime.callbacks import (
    EMAWeightAveraging,
    LambdaCallback,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from scaffold_runtime.errors import MisconfigurationException


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


@pytest.mark.parametrize("callback", [EMAWeightAveraging(), StochasticWeightAveraging(0.1)])
def test_can_be_sent_to_new_processes(callback: Any) -> None:
    pickle.loads(pickle.dumps(callback))


@pytest.fixture
def normed(regression) -> Any:
    """A module with batch norm, hence buffers."""

    class Normed(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    return Normed


def kept_weights() -> tuple[list[dict[str, torch.Tensor]], Any]:
    """A list that fills with the weights after every batch, and the callback that does it."""
    seen: list[dict[str, torch.Tensor]] = []
    return seen, LambdaCallback(on_train_batch_end=lambda t, m, *_: seen.append(weights(m)))


def test_the_average_is_the_mean_and_stays_in_the_module(
    regression, make_loader, make_trainer
) -> None:
    seen, note = kept_weights()
    module = regression()

    make_trainer(callbacks=[note, WeightAveraging()]).fit(module, make_loader(6))

    mean = {name: torch.stack([w[name] for w in seen]).mean(0) for name in seen[0]}
    assert close(weights(module), mean)
    assert not close(weights(module), seen[-1])


def test_ema_follows_its_formula(regression, make_loader, make_trainer) -> None:
    seen, note = kept_weights()
    module = regression()

    make_trainer(callbacks=[note, EMAWeightAveraging(decay=0.9)]).fit(module, make_loader(6))

    average = seen[0]
    for current in seen[1:]:
        average = {k: 0.9 * average[k] + 0.1 * current[k] for k in average}
    assert close(weights(module), average)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"update_every_n_steps": 2}, [0, 2, 4]),
        ({"update_every_n_steps": 2, "update_starting_at_step": 3}, [4]),
        ({"update_every_n_steps": 0}, []),
    ],
)
def test_ema_updates_when_told(arguments: dict[str, Any], steps: list[int]) -> None:
    ema = EMAWeightAveraging(**arguments)

    assert [step for step in range(6) if ema.should_update(step_idx=step)] == steps


def test_ema_can_update_by_epochs() -> None:
    ema = EMAWeightAveraging(update_every_n_steps=0, update_starting_at_epoch=2)

    assert [epoch for epoch in range(4) if ema.should_update(epoch_idx=epoch)] == [2, 3]
    assert not EMAWeightAveraging().should_update(epoch_idx=5)


def test_validation_sees_the_average_and_training_goes_on_with_its_own(
    normed, make_loader, make_trainer
) -> None:
    inside: list[dict[str, torch.Tensor]] = []
    after: list[dict[str, torch.Tensor]] = []
    seen, note = kept_weights()

    class Watched(normed):
        def on_validation_epoch_start(self) -> None:
            inside.append(weights(self))

        def on_train_epoch_end(self) -> None:
            after.append(weights(self))

    make_trainer(callbacks=[WeightAveraging(), note], num_sanity_val_steps=0).fit(
        Watched(), make_loader(6), make_loader(2)
    )

    assert same(after[0], seen[-1])
    assert not same(inside[0], after[0])
    mean = torch.stack([w["net.0.weight"] for w in seen]).mean(0)
    assert torch.allclose(inside[0]["net.0.weight"], mean, atol=1e-6)


def test_an_exception_in_validation_leaves_the_trained_weights(
    regression, make_loader, make_trainer
) -> None:
    seen, note = kept_weights()

    class Broken(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise ZeroDivisionError

    module = Broken()
    trainer = make_trainer(callbacks=[WeightAveraging(), note], num_sanity_val_steps=0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, make_loader(6), make_loader(2))

    assert same(weights(module), seen[-1])


def test_a_checkpoint_holds_both_and_loads_the_average(normed, make_loader, make_trainer) -> None:
    save = ModelCheckpoint("saved", filename="only")
    seen, note = kept_weights()
    module = normed()
    trainer = make_trainer(
        enable_checkpointing=True, callbacks=[EMAWeightAveraging(decay=0.5), note, save]
    )

    trainer.fit(module, make_loader(6), make_loader(2))

    checkpoint = torch.load("saved/only.ckpt", weights_only=True)
    assert same(checkpoint["current_model_state"], seen[-1])
    assert same(checkpoint["state_dict"], weights(module))  # the module holds the average now
    loaded = normed.load_from_checkpoint("saved/only.ckpt")
    assert same(weights(loaded), weights(module))


def test_weights_only_checkpoints_hold_the_average_alone(
    regression, make_loader, make_trainer
) -> None:
    save = ModelCheckpoint("saved", filename="only", save_weights_only=True)
    module = regression()

    make_trainer(enable_checkpointing=True, callbacks=[WeightAveraging(), save]).fit(
        module, make_loader(6)
    )

    checkpoint = torch.load("saved/only.ckpt", weights_only=True)
    assert same(checkpoint["state_dict"], weights(module))
    assert "current_model_state" not in checkpoint


@pytest.mark.parametrize(("batch", "window"), [(3, 1), (8, 1), (4, 2), (8, 2)])
def test_a_resumed_average_is_exact(
    batch: int, window: int, normed, make_loader, make_trainer
) -> None:
    def save(trainer: Any, module: Any, *_: Any) -> None:
        if trainer.progress.batches == batch:
            trainer.save_checkpoint("mid.ckpt")

    def train(**arguments: Any) -> Any:
        torch.manual_seed(0)
        module = normed()
        callbacks = [
            EMAWeightAveraging(decay=0.8, update_every_n_steps=3 - window),
            LambdaCallback(on_train_batch_end=save),
        ]
        trainer = make_trainer(max_epochs=2, callbacks=callbacks, accumulate_grad_batches=window)
        trainer.fit(module, make_loader(6, shuffle=True), make_loader(2), **arguments)
        return module

    expected = train()
    resumed = train(ckpt_path="mid.ckpt")

    assert same(weights(resumed), weights(expected))


@pytest.mark.parametrize("buffers", [True, False])
def test_a_buffer_that_grows_is_averaged_from_its_last_size(
    buffers: bool, regression, make_loader, make_trainer
) -> None:
    class Grows(regression):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen = torch.full((1 + self.trainer.global_step // 2,), float(batch_idx))
            return self.loss(batch)

    module = Grows()
    average = EMAWeightAveraging(decay=0.5, use_buffers=buffers)
    make_trainer(callbacks=average).fit(module, make_loader(4), make_loader(1))

    assert module.seen.tolist() == [2.5 if buffers else 3.0] * 2


# -- StochasticWeightAveraging --------------------------------------------------------------------


def test_swa_averages_the_weights_of_the_last_epochs(regression, make_loader, make_trainer) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    rates: list[float] = []

    def note(trainer: Any, module: Any) -> None:
        seen.append(weights(module))
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    swa = StochasticWeightAveraging(0.5, swa_epoch_start=3, annealing_epochs=2)
    module = regression()
    trainer = make_trainer(max_epochs=6, callbacks=[LambdaCallback(on_train_epoch_start=note), swa])

    trainer.fit(module, make_loader(6))

    assert swa.swa_start == 2
    mean = {name: torch.stack([w[name] for w in seen[2:]]).mean(0) for name in seen[0]}
    assert close(weights(module), mean)
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.275, 0.5, 0.5])


def test_swa_takes_batch_norm_statistics_anew(normed, make_loader, make_trainer) -> None:
    module = normed()
    loader = make_loader(6)
    trainer = make_trainer(
        max_epochs=4, callbacks=StochasticWeightAveraging(0.1, swa_epoch_start=0.5)
    )

    trainer.fit(module, loader)

    hidden = torch.cat([module.net[0](x) for x, _ in loader])
    assert torch.allclose(module.net[1].running_mean, hidden.mean(0), atol=1e-5)
    assert module.net[1].momentum == 0.1
    assert module.net[1].num_batches_tracked == 6
    assert trainer.global_step == 24
    assert set(trainer.callback_metrics) == {"loss"}


def test_batch_norm_is_as_it_was_after_ctrl_c_in_that_pass(
    normed, make_loader, make_trainer
) -> None:
    class Interrupted(normed):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.net[1].momentum is None:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    module = Interrupted()
    swa = StochasticWeightAveraging(0.1, swa_epoch_start=1)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(callbacks=swa).fit(module, make_loader(2))

    assert module.net[1].momentum == 0.1


@pytest.mark.parametrize(("start", "ends_after"), [(2, 3), (9, 4)])
def test_swa_says_where_nothing_was_averaged(
    start: int, ends_after: int, regression, make_loader, make_trainer, capsys
) -> None:
    """As where early stopping or a time limit ends the training."""
    swa = StochasticWeightAveraging(0.1, swa_epoch_start=start)
    trainer = make_trainer(max_epochs=4, callbacks=swa)

    class Ending(regression):
        def on_train_epoch_end(self) -> None:
            trainer.should_stop = self.current_epoch + 1 == ends_after

    trainer.fit(Ending(), make_loader(2))

    said = f"training ended after {ends_after} of 4 epochs, and averaging begins with epoch {start}"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("saved", [1, 3])
def test_a_resumed_swa_is_exact(saved: int, regression, make_loader, make_trainer) -> None:
    class Scheduled(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]

    def train(**arguments: Any) -> Any:
        torch.manual_seed(0)
        module = Scheduled()
        save = ModelCheckpoint("saved", filename="{epoch}", save_top_k=-1)
        swa = StochasticWeightAveraging(0.2, swa_epoch_start=3, annealing_epochs=3)
        trainer = make_trainer(max_epochs=6, enable_checkpointing=True, callbacks=[swa, save])
        trainer.fit(module, make_loader(6, shuffle=True), **arguments)
        return module

    expected = train()
    resumed = train(ckpt_path=f"saved/epoch={saved}.ckpt")

    assert same(weights(resumed), weights(expected))


def test_a_validation_copies_no_average_and_can_save_it(
    regression, make_loader, make_trainer
) -> None:
    copied: list[torch.Tensor] = []

    def save(trainer: Any, module: Any) -> None:
        before = trainer._live().before_validation
        copied.extend(v for s in before["callbacks"].values() for v in s.get("average", ()))
        trainer.save_checkpoint(f"{trainer.current_epoch}.ckpt")

    def train(**arguments: Any) -> Any:
        torch.manual_seed(0)
        swa = StochasticWeightAveraging(0.2, swa_epoch_start=1)
        trainer = make_trainer(
            max_epochs=3,
            num_sanity_val_steps=0,
            callbacks=[swa, LambdaCallback(on_validation_start=save)],
        )
        trainer.fit(module := regression(), make_loader(2), make_loader(1), **arguments)
        return weights(module)

    expected = train()
    assert copied == []
    assert same(train(ckpt_path="1.ckpt"), expected)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"swa_lrs": 0.0}, "swa_lrs"),
        ({"swa_lrs": 1}, "swa_lrs"),
        ({"swa_lrs": 0.1, "swa_epoch_start": 0}, "swa_epoch_start"),
        ({"swa_lrs": 0.1, "swa_epoch_start": 1.5}, "swa_epoch_start"),
        ({"swa_lrs": 0.1, "annealing_strategy": "step"}, "annealing_strategy"),
    ],
)
def test_wrong_swa_arguments_are_refused(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(MisconfigurationException, match=part):
        StochasticWeightAveraging(**arguments)


def test_nothing_is_left_in_the_folder(regression, make_loader, make_trainer) -> None:
    make_trainer(callbacks=WeightAveraging()).fit(regression(), make_loader())

    assert list(Path().iterdir()) == []


def test_all_of_a_validation_sees_the_average(regression, make_loader, make_trainer) -> None:
    """Also the hooks of callbacks that come later, until validation is over."""
    seen: dict[str, dict[str, torch.Tensor]] = {}
    hooks = ["on_validation_epoch_start", "on_validation_batch_end", "on_validation_epoch_end"]
    note = {h: lambda t, m, *_, h=h: seen.__setitem__(h, weights(m)) for h in hooks}
    average = WeightAveraging()
    before = LambdaCallback(on_train_batch_end=lambda t, m, *_: seen.update(now=weights(m)))
    trainer = make_trainer(callbacks=[average, LambdaCallback(**note), before])
    module = regression()
    trainer.fit(module, make_loader(3), make_loader(2))

    assert not same(seen["now"], weights(module))  # which has the average after training
    for hook in hooks:
        assert same(seen[hook], weights(module)), hook
