"""Tuner, LearningRateFinder and BatchSizeFinder: what they find, and that they leave no trace."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, SequentialLR

from scaffold_runtime import Callback, LightningDataModule
from scaffold_runtime.callbacks import BatchSizeFinder, LambdaCallback, LearningRateFinder
from scaffold_runtime.callbacks.lr_finder import LRFinder
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.tuner import Tuner


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


class Data(LightningDataModule):
    """64 samples, in batches of `batch_size`."""

    def __init__(self, make_loader: Any, batch_size: int = 4) -> None:
        super().__init__()
        self.make_loader, self.batch_size = make_loader, batch_size

    def loader(self, **kwargs: Any) -> Any:
        dataset = self.make_loader(64, 1).dataset
        return torch.utils.data.DataLoader(dataset, self.batch_size, **kwargs)

    def train_dataloader(self) -> Any:
        return self.loader(shuffle=True)

    def val_dataloader(self) -> Any:
        return self.loader()

    test_dataloader = predict_dataloader = val_dataloader


@pytest.fixture
def small(regression) -> Any:
    """A module that runs out of a memory of 20 samples: a fake, there is no such small device here."""

    class Small(regression):
        memory = 20
        tried: list[int]

        def __init__(self) -> None:
            super().__init__()
            self._tried: list[int] = []

        def loss(self, batch: Any) -> Any:
            self._tried.append(len(batch[0]))
            if len(batch[0]) > self.memory:
                raise RuntimeError("CUDA out of memory. Tried to allocate too much.")
            return super().loss(batch)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            self.loss(batch)
            return self(batch[0])

    return Small


# -- lr_find --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_rates_rise_from_min_to_max(mode: str, regression, make_loader, make_trainer) -> None:
    found = Tuner(make_trainer()).lr_find(
        regression(),
        make_loader(6),
        min_lr=1e-4,
        max_lr=0.5,
        num_training=20,
        mode=mode,
        early_stop_threshold=None,
    )

    rates = found.results["lr"]
    assert len(rates) == len(found.results["loss"]) == 20
    assert rates[0] == 1e-4 and rates[-1] == pytest.approx(0.5)
    assert rates == sorted(rates)
    pairs = pairwise(rates[2:])
    steps = [b / a if mode == "exponential" else b - a for a, b in pairs]
    assert max(steps) == pytest.approx(min(steps))


def test_losses_are_those_of_a_plain_loop(regression, make_loader, make_trainer) -> None:
    torch.manual_seed(0)
    plain = regression()
    module = copy.deepcopy(plain)
    found = Tuner(make_trainer()).lr_find(
        module,
        make_loader(6),
        max_lr=0.3,
        num_training=12,
        early_stop_threshold=None,
        update_attr=False,
    )

    batches = list(make_loader(6)) * 2
    average, expected = 0.0, []
    for index, (rate, batch) in enumerate(zip(found.results["lr"], batches, strict=True)):
        loss = plain.loss(batch)
        plain.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in plain.parameters():
                p -= rate * p.grad
        average = 0.98 * average + 0.02 * loss.item()
        expected.append(average / (1 - 0.98 ** (index + 1)))
    assert found.results["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    finder = LRFinder("linear", 0.0, 1.0, 30)
    losses = [5.0] * 15 + [4.9, 4.0, 2.0, 1.5, 1.4] + [float("nan")] + [1.4] * 9
    finder.results = {"lr": [i / 30 for i in range(30)], "loss": losses}

    assert finder.suggestion() == pytest.approx(16 / 30)
    assert finder.suggestion(skip_begin=18) == pytest.approx(18 / 30)
    with pytest.warns(UserWarning, match="too few"):
        assert finder.suggestion(skip_begin=28) is None


def test_divergence_stops_the_search(regression, make_loader, make_trainer) -> None:
    found = Tuner(make_trainer()).lr_find(
        regression(), make_loader(6), max_lr=1e6, num_training=100, update_attr=False
    )

    assert 10 < len(found.results["lr"]) < 100


def test_lr_find_leaves_no_trace(regression, make_loader, make_trainer, recorder) -> None:
    class Counting(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net.append(nn.Dropout(0.1))
            self.batches = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches += 1
            return super().training_step(batch, batch_idx)

    module = Counting()
    module.net[0].bias.requires_grad = False
    loader = make_loader(6, shuffle=True, generator=torch.Generator().manual_seed(5))
    trainer = make_trainer(logger=recorder, enable_checkpointing=True, max_epochs=3)
    weights, rng = snapshot(module), torch.get_rng_state()
    generator = loader.generator.get_state()
    settings = {k: v for k, v in vars(trainer).items() if k not in ("progress", "metrics")}

    found = Tuner(trainer).lr_find(module, loader, num_training=15, update_attr=False)

    assert len(found.results["lr"]) == 15
    assert same(weights, module.state_dict())
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(generator, loader.generator.get_state())
    assert (module.batches, module.lr, module.training) == (0, 0.05, True)
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in module.parameters())
    assert {k: v for k, v in vars(trainer).items() if k in settings} == settings
    assert trainer.global_step == 0 and trainer.callback_metrics == {}
    assert recorder.rows == recorder.hparams == list(Path().iterdir()) == []
    assert module._trainer is None


def test_training_after_it_is_training_without_it(regression, make_loader, make_trainer) -> None:
    ends = []
    for search in (False, True):
        torch.manual_seed(0)
        module = regression()
        trainer = make_trainer(max_epochs=2)
        loader = make_loader(6, shuffle=True)
        if search:
            Tuner(trainer).lr_find(module, loader, num_training=15, update_attr=False)
        trainer.fit(module, loader)
        ends.append(snapshot(module))
    assert same(*ends)


def test_noise_at_tiny_rates_is_not_taken_for_the_fastest_fall() -> None:
    finder = LRFinder("exponential", 1e-8, 1.0, 100)
    rates = [finder.rate(step) for step in range(100)]
    falls = [0.7 - 0.3 / (1 + (3e-3 / rate) ** 2) for rate in rates]
    noisy = [loss + 1e-3 * (-1) ** step for step, loss in enumerate(falls)]
    finder.results = {"lr": rates, "loss": noisy}

    found = finder.suggestion()
    assert found is not None and 5e-4 < found < 2e-2


def test_the_suggestion_is_set(regression, make_loader, make_trainer) -> None:
    class Named(regression):
        def __init__(self, learning_rate: float = 0.05, speed: float = 0.05) -> None:
            super().__init__()
            self.save_hyperparameters()
            del self.lr

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)

    for name, argument in (("learning_rate", ""), ("speed", "speed")):
        module = Named()
        found = Tuner(make_trainer()).lr_find(
            module, make_loader(6), num_training=30, attr_name=argument
        )
        assert module.hparams[name] == found.suggestion() != 0.05
    with pytest.raises(MisconfigurationException, match=r"`wrong`.*attr_name"):
        Tuner(make_trainer()).lr_find(Named(), make_loader(6), attr_name="wrong")


def test_the_plot_is_a_picture(regression, make_loader, make_trainer) -> None:
    import matplotlib

    matplotlib.use("agg")
    found = Tuner(make_trainer()).lr_find(regression(), make_loader(6), num_training=30)

    figure = found.plot(suggest=True)
    figure.savefig("lr.png")

    assert Path("lr.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "Learning rate"
    assert axes.lines[1].get_xdata()[0] == found.suggestion()
    from matplotlib import pyplot

    pyplot.close(figure)
    other, ax = pyplot.subplots()
    assert found.plot(ax=ax) is other
    pyplot.close(other)


def test_lr_find_refuses_what_cannot_work(regression, make_loader, make_trainer) -> None:
    class Two(regression):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    with pytest.raises(MisconfigurationException, match="one optimizer"):
        Tuner(make_trainer()).lr_find(Two(), make_loader(6))
    with pytest.raises(MisconfigurationException, match="'fit' only"):
        Tuner(make_trainer()).lr_find(regression(), make_loader(6), method="validate")
    with pytest.raises(MisconfigurationException, match="already"):
        Tuner(make_trainer(callbacks=LearningRateFinder())).lr_find(regression(), make_loader(6))
    with pytest.raises(MisconfigurationException, match="mode='cubic'"):
        LearningRateFinder(mode="cubic")
    with pytest.warns(UserWarning, match="fast_dev_run"):
        assert Tuner(make_trainer(fast_dev_run=True)).lr_find(regression(), make_loader(6)) is None


# -- LearningRateFinder ---------------------------------------------------------------------------


def test_the_callback_trains_with_what_it_found(regression, make_loader, make_trainer) -> None:
    class Scheduled(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5 ** (e + 1))
            return [optimizer], [scheduler]

    rates: list[float] = []
    note = LambdaCallback(
        on_train_epoch_end=lambda t, m: rates.append(t.optimizers[0].param_groups[0]["lr"])
    )
    finder = LearningRateFinder(num_training_steps=30)
    module, before = Scheduled(), None
    trainer = make_trainer(max_epochs=2, callbacks=[finder, note])
    trainer.fit(module, make_loader(6))

    found = finder.optimal_lr.suggestion()
    assert before != found == module.lr
    assert rates == pytest.approx([found / 2, found / 4])
    assert trainer.global_step == 12


def test_schedulers_within_a_scheduler_take_what_was_found(
    regression, make_loader, make_trainer
) -> None:
    class Sequence(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            parts = [LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch + 1)) for _ in range(2)]
            return [optimizer], [SequentialLR(optimizer, parts, [1])]

    rates: list[float] = []
    note = LambdaCallback(
        on_train_epoch_end=lambda t, m: rates.append(t.optimizers[0].param_groups[0]["lr"])
    )
    module, finder = Sequence(), LearningRateFinder(num_training_steps=30)
    make_trainer(max_epochs=2, callbacks=[finder, note]).fit(module, make_loader(6))

    found = finder.optimal_lr.suggestion()
    assert rates == pytest.approx([found / 2, found / 2])


def test_a_scheduler_that_does_not_take_what_was_found_is_said(
    regression, make_loader, make_trainer, recwarn
) -> None:
    class Cycle(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            cycle = OneCycleLR(optimizer, max_lr=self.lr, total_steps=40)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

    with pytest.warns(UserWarning, match=r"OneCycleLR sets learning rates itself.*Tuner"):
        make_trainer(callbacks=LearningRateFinder(num_training_steps=30)).fit(
            Cycle(), make_loader(6)
        )
    recwarn.clear()
    module = Cycle()
    Tuner(make_trainer()).lr_find(module, make_loader(6), num_training=30)
    assert not [w for w in recwarn if "sets learning rates itself" in str(w.message)]


def test_a_search_changes_nothing_else(regression, make_loader, make_trainer) -> None:
    ends = []
    for callbacks in ([], [LearningRateFinder(num_training_steps=20, update_attr=False)]):
        torch.manual_seed(0)
        module = regression()
        trainer = make_trainer(max_epochs=2, callbacks=callbacks)
        trainer.fit(module, make_loader(6, shuffle=True), make_loader(2))
        ends.append(snapshot(module))
    assert same(*ends)


def test_a_search_puts_back_what_the_state_dict_leaves_out(
    regression, make_loader, make_trainer
) -> None:
    class Filtered(regression):
        def __init__(self) -> None:
            super().__init__()
            self.strict_loading = False
            self.register_buffer("seen", torch.zeros(1), persistent=False)
            self.register_buffer("newest", None)
            self.register_buffer("queue", torch.zeros(0))

        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            kept = super().state_dict(*args, **kwargs)
            return {name: value for name, value in kept.items() if not name.startswith("net.0")}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen += 1
            self.newest, self.queue = batch[0], torch.cat([self.queue, self.seen])
            return super().training_step(batch, batch_idx)

    module = Filtered()
    before = [p.clone() for p in (*module.parameters(), module.seen)]
    finder = LearningRateFinder(num_training_steps=20, update_attr=False)
    make_trainer(max_epochs=1, max_steps=0, callbacks=finder).fit(module, make_loader(6))
    tensors = (*module.parameters(), module.seen)
    assert finder.optimal_lr is not None
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
    assert (module.newest, len(module.queue)) == (None, 0)


def test_a_resumed_run_does_not_search_again(regression, make_loader, make_trainer) -> None:
    def train(**arguments: Any) -> Any:
        torch.manual_seed(0)
        module, finder = regression(), LearningRateFinder(num_training_steps=30)
        trainer = make_trainer(max_epochs=arguments.pop("epochs"), callbacks=finder)
        trainer.fit(module, make_loader(6, shuffle=True), **arguments)
        return module, finder, trainer

    whole, _, _ = train(epochs=3)
    _, _, first = train(epochs=1)
    first.save_checkpoint("one.ckpt")
    resumed, finder, _ = train(epochs=3, ckpt_path="one.ckpt")

    assert finder.optimal_lr is None and resumed.lr == whole.lr
    assert same(snapshot(whole), snapshot(resumed))


def test_it_can_search_again_later(regression, make_loader, make_trainer) -> None:
    class Later(LearningRateFinder):
        epochs: list[int] = []

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                before, steps = snapshot(pl_module), trainer.global_step
                self.lr_find(trainer, pl_module)
                assert same(before, snapshot(pl_module)) and trainer.global_step == steps
                self.epochs.append(trainer.current_epoch)

    module = regression()
    trainer = make_trainer(max_epochs=3, callbacks=Later(num_training_steps=20))
    trainer.fit(module, make_loader(6), make_loader(2))

    assert Later.epochs == [1] and trainer.global_step == 18
    assert "val_loss" in trainer.callback_metrics


# -- scale_batch_size -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found", "tried"),
    [
        ({}, 16, [2, 4, 8, 16, 32]),
        ({"mode": "binsearch", "margin": 0.0}, 20, [2, 4, 8, 16, 32, 24, 20, 22, 21]),
        ({"mode": "binsearch"}, 19, [2, 4, 8, 16, 32, 24, 20, 22, 21]),
        ({"init_val": 50}, 12, [50, 25, 12]),
        ({"max_trials": 2}, 4, [2, 4]),
        ({"max_val": 10}, 10, [2, 4, 8, 10]),
    ],
)
def test_the_largest_batch_that_fits_is_found(
    arguments: Any, found: int, tried: list[int], small, make_loader, make_trainer
) -> None:
    module, data = small(), Data(make_loader)
    size = Tuner(make_trainer()).scale_batch_size(
        module, datamodule=data, steps_per_trial=1, **arguments
    )

    assert size == data.batch_size == found
    assert [n for i, n in enumerate(module._tried) if i == 0 or n != module._tried[i - 1]] == tried


def test_it_stops_at_the_size_of_the_data(small, make_loader, make_trainer) -> None:
    module, data = small(), Data(make_loader)
    module.memory = 10**6

    assert Tuner(make_trainer()).scale_batch_size(module, datamodule=data) == 64


@pytest.mark.filterwarnings("ignore:.*or the loader gave None")
@pytest.mark.parametrize("automatic", [True, False])
def test_a_search_without_steps_ends(automatic: bool, small, make_loader, make_trainer) -> None:
    class Never(small):
        automatic_optimization = automatic

        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    with pytest.raises(StepError, match="took no step in"):
        Tuner(make_trainer()).scale_batch_size(Never(), datamodule=Data(make_loader))


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_scaling_leaves_no_trace(method: str, small, make_loader, make_trainer) -> None:
    module, data = small(), Data(make_loader)
    weights, rng = snapshot(module), torch.get_rng_state()
    trainer = make_trainer(enable_checkpointing=True)

    size = Tuner(trainer).scale_batch_size(module, datamodule=data, method=method)

    assert size == 16
    assert same(weights, snapshot(module)) and torch.equal(rng, torch.get_rng_state())
    assert trainer.global_step == 0 and trainer.datamodule is None
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_the_callback_goes_on_with_what_it_found(
    method: str, small, make_loader, make_trainer
) -> None:
    sizes: list[int] = []

    def note(trainer: Any, module: Any, *args: Any) -> None:
        sizes.append(len(args[-2][0]) if method == "fit" else len(args[1][0]))

    stage = {"fit": "train", "validate": "validation"}.get(method, method)
    watch = LambdaCallback(**{f"on_{stage}_batch_end": note})
    trainer = make_trainer(callbacks=[BatchSizeFinder(), watch])

    getattr(trainer, method)(small(), datamodule=Data(make_loader))

    assert sizes == [16, 16, 16, 16]


def test_a_resumed_run_keeps_its_batch_size(small, make_loader, make_trainer) -> None:
    trainer = make_trainer(callbacks=BatchSizeFinder())
    trainer.fit(small(), datamodule=Data(make_loader))
    trainer.save_checkpoint("one.ckpt")
    module, data = small(), Data(make_loader)
    module.memory = 10**6
    make_trainer(max_epochs=2, callbacks=BatchSizeFinder()).fit(
        module, datamodule=data, ckpt_path="one.ckpt"
    )

    assert data.batch_size == 16 and set(module._tried) == {16}


def test_other_errors_are_raised_and_the_size_is_put_back(
    regression, make_loader, make_trainer
) -> None:
    class Broken(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("something else")

    data = Data(make_loader)
    with pytest.raises(RuntimeError, match="something else"):
        Tuner(make_trainer()).scale_batch_size(Broken(), datamodule=data)
    assert data.batch_size == 4


def test_scaling_refuses_what_cannot_work(small, make_loader, make_trainer) -> None:
    tuner = Tuner(make_trainer())
    module = small()
    module.batch_size = 4
    with pytest.raises(MisconfigurationException, match="passed to fit"):
        tuner.scale_batch_size(module, make_loader(6))
    with pytest.raises(MisconfigurationException, match=r"`size`.*batch_arg_name"):
        tuner.scale_batch_size(small(), datamodule=Data(make_loader), batch_arg_name="size")
    with pytest.raises(MisconfigurationException, match="mode='guess'"):
        tuner.scale_batch_size(small(), datamodule=Data(make_loader), mode="guess")
    with pytest.raises(MisconfigurationException, match="method='train'"):
        tuner.scale_batch_size(small(), datamodule=Data(make_loader), method="train")
    module.memory = 0
    with pytest.raises(MisconfigurationException, match="not even a batch of 1"):
        tuner.scale_batch_size(module, datamodule=Data(make_loader))


def test_callbacks_of_the_trainer_take_no_part(small, make_loader, make_trainer) -> None:
    class Never(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            raise AssertionError

    trainer = make_trainer(callbacks=Never())
    assert Tuner(trainer).scale_batch_size(small(), datamodule=Data(make_loader)) == 16
