"""Programs that are right, and easily go wrong: what people write beyond the tutorials."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from scaffold_runtime import Callback, LightningModule
from scaffold_runtime.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from scaffold_runtime.data import batch_size_of
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.ranks import rank_zero_only

# -- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_forward_after_a_step_by_hand_has_the_new_weights(
    precision: str, regression, make_loader, make_trainer
) -> None:
    """Torch's autocast would remember the weights it cast before the step."""
    errors: list[float] = []

    class ByHand(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            again = self(batch[0])
            with torch.autocast("cpu", enabled=False):
                errors.append(float((again - self(batch[0])).detach().abs().max()))
            optimizer.zero_grad()

    make_trainer(precision=precision).fit(ByHand(lr=1.0), make_loader(4))

    assert max(errors) < 0.1


def test_what_was_first_computed_without_gradients_still_learns(
    regression, make_loader, make_trainer
) -> None:
    class Looks(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                self(batch[0])
            return self.loss(batch)

        def on_after_backward(self) -> None:
            assert all(p.grad is not None for p in self.parameters())

    make_trainer(precision="bf16-mixed").fit(Looks(), make_loader(2))


def test_the_context_of_the_precision_may_be_entered_again(
    regression, make_loader, make_trainer
) -> None:
    class Nested(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with self.trainer.precision_plugin.forward_context():
                return self.loss(batch)

    make_trainer(precision="bf16-mixed").fit(Nested(), make_loader(2))

    assert not torch.is_autocast_enabled("cpu")


# -- steps ----------------------------------------------------------------------------------------


def test_clipping_at_zero_is_off(regression, make_loader, make_trainer) -> None:
    moved = []
    for limit in (None, 0, 0.0):
        torch.manual_seed(0)
        module = regression()
        make_trainer(gradient_clip_val=limit).fit(module, make_loader(3))
        moved.append(module.net[0].weight.detach().clone())
    assert torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])


def test_a_callback_may_change_the_limit_of_gradients(
    regression, make_loader, make_trainer
) -> None:
    class Freeze(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.gradient_clip_val = 1e-12

    module = regression()
    before = module.net[0].weight.detach().clone()
    make_trainer(gradient_clip_val=1.0, callbacks=Freeze()).fit(module, make_loader(3))
    assert torch.allclose(before, module.net[0].weight, atol=1e-9)


@pytest.mark.parametrize("hook", ["on_train_end", "on_fit_end", "on_exception"])
def test_a_run_when_another_one_has_ended(hook: str, regression, make_loader, make_trainer) -> None:
    tested: list[Any] = []

    class Tests(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if hook == "on_exception":
                raise ZeroDivisionError

    def test(self: Any, trainer: Any, pl_module: Any, *exception: Any) -> None:
        tested.extend(trainer.test(pl_module, make_loader(1), verbose=False))

    setattr(Tests, hook, test)
    with suppress(ZeroDivisionError):
        make_trainer(callbacks=Tests()).fit(regression(), make_loader(2), make_loader(1))
    assert [list(metrics) for metrics in tested] == [["test_loss"]]


def test_a_run_after_a_failed_one_begins_its_epoch_anew(
    regression, make_loader, make_trainer
) -> None:
    seen: list[int | str] = []

    class Fails(regression):
        broken = True

        def on_train_epoch_start(self) -> None:
            seen.append("start")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 2 and self.broken:
                raise ZeroDivisionError
            seen.append(batch_idx)
            return self.loss(batch)

    trainer, module = make_trainer(), Fails()
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, make_loader(4))
    assert trainer.state.status.value == "interrupted"
    module.broken = False
    trainer.fit(module, make_loader(4))

    assert seen == ["start", 0, 1, "start", 0, 1, 2, 3]
    assert trainer.state.status.value == "finished"


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_step_by_hand_with_a_closure(
    precision: str, regression, make_loader, make_trainer
) -> None:
    """It returns the loss, and hooks see the gradients of the closure."""
    returned: list[Any] = []

    class ByHand(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                return loss

            returned.append(optimizer.step(closure))

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            assert all(p.grad is not None for p in self.parameters())

    trainer = make_trainer(precision=precision)
    trainer.fit(ByHand(), make_loader(3))

    assert [value.ndim for value in returned] == [0, 0, 0]
    assert trainer.global_step == 3


def test_an_override_of_optimizer_step_sees_the_loss(regression, make_loader, make_trainer) -> None:
    returned: list[Any] = []

    class Own(regression):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            returned.append(optimizer.step(closure))

    make_trainer().fit(Own(), make_loader(2))

    assert all(isinstance(value, Tensor) for value in returned) and len(returned) == 2


def test_an_optimizer_of_the_module_is_one_of_torch(regression, make_loader, make_trainer) -> None:
    """Schedules made by hand take it."""

    class ByHand(regression):
        automatic_optimization = False

        def on_train_start(self) -> None:
            self.schedule = StepLR(self.optimizers(), 1, gamma=0.5)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            assert isinstance(optimizer, Optimizer) and isinstance(optimizer, Adam)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            self.schedule.step()

        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), lr=0.1)

    trainer = make_trainer()
    trainer.fit(ByHand(), make_loader(3))

    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0125)


# -- steps of evaluation --------------------------------------------------------------------------


def test_a_third_argument_with_a_default_keeps_it(regression, make_loader, make_trainer) -> None:
    class Prefixed(regression):
        def validation_step(self, batch: Any, batch_idx: int, prefix: str = "val") -> None:
            self.log(f"{prefix}_x", 1.0)

        def test_step(self, *arguments: Any) -> None:
            self.log("given", float(len(arguments)))

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return dataloader_idx

    trainer, module = make_trainer(), Prefixed()
    assert trainer.validate(module, make_loader(1)) == [{"val_x": 1.0}]
    assert trainer.test(module, make_loader(1)) == [{"given": 2.0}]
    assert trainer.predict(module, make_loader(1)) == [0]


@pytest.mark.parametrize("loaders", [[], "empty"])
def test_nothing_to_evaluate_calls_nothing(
    loaders: Any, regression, make_loader, make_trainer
) -> None:
    class Stacks(regression):
        def on_validation_epoch_end(self) -> None:
            torch.stack([])

    loaders = make_loader(0) if loaders == "empty" else loaders
    trainer = make_trainer()
    trainer.fit(Stacks(), make_loader(2), loaders)
    assert trainer.validate(Stacks(), loaders) == []
    assert trainer.num_test_batches == []


def test_a_loader_nobody_validates_with_is_left_alone(
    regression, make_loader, make_trainer
) -> None:
    class Trains(regression):
        validation_step = LightningModule.validation_step

    trainer = make_trainer()
    with pytest.warns(UserWarning, match="Trains has no `validation_step`"):
        trainer.fit(Trains(), make_loader(2), make_loader(2))
    assert trainer.global_step == 2


def test_a_warning_points_at_the_line_that_led_to_it(regression, make_loader, make_trainer) -> None:
    class Trains(regression):
        validation_step = LightningModule.validation_step

    with pytest.warns(UserWarning, match="Trains has no `validation_step`") as said:
        make_trainer().fit(Trains(), make_loader(2), make_loader(2))
    assert said[0].filename == __file__


def test_half_a_validation_is_said(regression, make_loader, make_trainer, capsys) -> None:
    class Half(regression):
        def valid_dataloader(self) -> Any:
            return make_loader(2)

    class Misspelt(regression):
        validation_step = LightningModule.validation_step

        def validaton_step(self, batch: Any, batch_idx: int) -> None: ...

        def val_dataloader(self) -> Any:
            return make_loader(2)

    make_trainer().fit(Half(), make_loader(2))
    said = "Nothing is validated: there is no validation loader. It has a `valid_dataloader`: is that it?"
    assert said in capsys.readouterr().out
    make_trainer(limit_val_batches=0).fit(Half(), make_loader(2))
    assert "Nothing" not in capsys.readouterr().out
    with pytest.warns(UserWarning, match="It has a `validaton_step`: is that it"):
        make_trainer().fit(Misspelt(), make_loader(2))


# -- logging --------------------------------------------------------------------------------------


def test_a_logged_parameter_is_what_it_was(regression, make_loader, make_trainer, recorder) -> None:
    class Tempered(regression):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.tensor(1.0))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("temperature", self.temperature)
            return self.loss(batch) + 10 * self.temperature

    make_trainer(logger=recorder, log_every_n_steps=1).fit(Tempered(), make_loader(2))

    assert recorder.values("temperature") == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("on_epoch", [False, True])
def test_what_is_logged_stays_when_the_tensor_changes_in_place(
    on_epoch: bool, regression, make_loader, make_trainer, recorder
) -> None:
    class Counts(regression):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("count", self.count, on_step=True, on_epoch=on_epoch)
            self.count += 1
            loss = self.loss(batch)
            self.log("bare", loss, on_step=True, on_epoch=on_epoch)
            self.bare = loss.item()
            loss += 100
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            metrics = self.trainer.callback_metrics
            assert metrics["bare"] == pytest.approx(self.bare)

    make_trainer(logger=recorder, log_every_n_steps=1).fit(Counts(), make_loader(2))

    name = "count_step" if on_epoch else "count"
    assert recorder.values(name) == [0.0, 1.0]


def test_a_batch_without_samples_weighs_nothing(regression, make_loader, make_trainer) -> None:
    class Filters(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("kept", float(batch_idx), batch_size=(0, 3)[batch_idx])
            self.log("none", 1.0, batch_size=0)

    metrics = make_trainer().validate(Filters(), make_loader(2))[0]

    assert metrics["kept"] == 1.0 and math.isnan(metrics["none"])


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (([1, 2, 3], torch.zeros(5, 2)), 5),
        ({"boxes": [object()], "x": torch.zeros(7)}, 7),
        ((["a", "b"],), 2),
        ((torch.tensor(1.0),), 1),
        ("abc", 1),
        ([], 1),
    ],
)
def test_the_size_of_a_batch(batch: Any, size: int) -> None:
    assert batch_size_of(batch) == size


def test_a_mean_that_begins_with_a_number_stays_exact(
    regression, make_loader, make_trainer
) -> None:
    class Mixed(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            value = torch.tensor(1.0, dtype=torch.bfloat16)
            self.log("x", value if batch_idx else 0.0, batch_size=1)

    metrics = make_trainer().validate(Mixed(), make_loader(1001, size=1))[0]

    assert metrics["x"] == pytest.approx(1000 / 1001)


def test_logging_when_validation_has_ended_is_an_error(
    regression, make_loader, make_trainer
) -> None:
    class Late(regression):
        def on_validation_end(self) -> None:
            self.log("late", 1.0)

    with pytest.raises(MisconfigurationException, match="when validation has ended"):
        make_trainer().fit(Late(), make_loader(2), make_loader(1))


def test_a_value_of_a_metric_lets_go_of_its_graph(regression, make_loader, make_trainer) -> None:
    class Mean:
        """Like a torchmetrics Metric."""

        total, count = 0.0, 0

        def __call__(self, value: Tensor) -> Tensor:
            self._forward_cache = value
            self.update(value)
            return value

        def update(self, value: Tensor) -> None:
            self.total, self.count = self.total + float(value.detach()), self.count + 1

        def compute(self) -> Tensor:
            return torch.tensor(self.total / self.count)

        def reset(self) -> None:
            self.total, self.count = 0.0, 0

    class Measured(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.mean(loss)
            self.log("mean", self.mean, on_step=True, on_epoch=True)
            return loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert not self.trainer.callback_metrics["mean_step"].requires_grad

    module = Measured()
    object.__setattr__(module, "mean", Mean())
    make_trainer().fit(module, make_loader(2))


# -- monitors -------------------------------------------------------------------------------------


def test_what_is_logged_later_may_be_monitored(regression, make_loader, make_trainer) -> None:
    class Late(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 3:
                self.log("seldom", 1.0)
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_a", 1.0)
            if batch_idx == 3:
                self.log("val_b", 1.0)

    class Mine(Callback):
        monitor = "something of mine"

    kept = [ModelCheckpoint(monitor="seldom"), EarlyStopping("val_b"), Mine()]
    trainer = make_trainer(callbacks=kept, enable_checkpointing=True, num_sanity_val_steps=2)
    trainer.fit(Late(), make_loader(5), make_loader(5))
    assert float(kept[0].best_model_score) == 1.0


def test_early_stopping_of_a_constant_in_64_bits(regression, make_loader, make_trainer) -> None:
    class Constant(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("x", torch.tensor(0.1, dtype=torch.float64))

    trainer = make_trainer(
        max_epochs=8, precision="64-true", callbacks=EarlyStopping("x", patience=2)
    )
    trainer.fit(Constant(), make_loader(1), make_loader(1))

    assert trainer.current_epoch == 3


def test_early_stopping_that_has_stopped_trains_on_in_a_new_run(
    regression, make_loader, make_trainer
) -> None:
    class Constant(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("x", 1.0)

    stopping = EarlyStopping("x", patience=2)
    for epochs in (3, 1):
        trainer = make_trainer(max_epochs=8, callbacks=stopping)
        trainer.fit(Constant(), make_loader(1), make_loader(1))
        assert trainer.current_epoch == epochs


# -- the trainer ----------------------------------------------------------------------------------


def test_there_is_a_logger_where_nothing_is_logged(regression, make_loader, make_trainer) -> None:
    class Draws(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.logger.experiment.add_scalar("x", 1.0, batch_idx)
            self.logger.log_metrics({"y": 1.0}, step=batch_idx)
            return self.loss(batch)

    make_trainer(fast_dev_run=True, logger=True).fit(Draws(), make_loader(2))
    assert make_trainer(fast_dev_run=True, logger=False).logger is None


def test_a_logger_may_be_set_later(regression, make_loader, make_trainer, recorder) -> None:
    trainer = make_trainer(logger=False, log_every_n_steps=1)
    trainer.logger = recorder
    trainer.fit(regression(), make_loader(1))
    assert recorder.values("loss")
    trainer.logger = None
    assert trainer.loggers == []


def test_whole_floats_are_numbers_of_batches(make_trainer) -> None:
    trainer = make_trainer(
        limit_train_batches=2.0, val_check_interval=2.0, num_sanity_val_steps=math.inf
    )
    assert (trainer.limit_train_batches, trainer.val_check_interval) == (2, 2)
    assert trainer.num_sanity_val_steps == -1


def test_a_timer_of_ones_own_stands_beside_max_time(make_trainer) -> None:
    timer = Timer("00:01:00:00")
    trainer = make_trainer(max_time="00:02:00:00", callbacks=timer)
    assert [c for c in trainer.callbacks if isinstance(c, Timer)] == [timer]


def test_a_callback_may_bring_others_and_replace_hooks_in_setup(
    regression, make_loader, make_trainer
) -> None:
    called: list[str] = []

    class Brought(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            called.append(f"setup {stage}")

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            called.append("brought")

    class Brings(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            trainer.callbacks.append(Brought())
            pl_module.on_train_end = lambda: called.append("replaced")

    make_trainer(callbacks=Brings()).fit(regression(), make_loader(1))

    assert called == ["setup fit", "brought", "replaced"]


# -- data -----------------------------------------------------------------------------------------


def test_a_defaultdict_stays_one(make_trainer, make_loader, regression) -> None:
    def collate(rows: Any) -> Any:
        batch = defaultdict(list)
        batch["x"], batch["y"] = map(torch.stack, zip(*rows, strict=True))
        return batch

    class Dicts(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch["nothing"] == []
            return self.loss((batch["x"], batch["y"]))

    make_trainer(precision="64-true").fit(Dicts(), make_loader(2, collate_fn=collate))


def test_averaging_of_weights_stepped_by_hand_with_batch_norm(
    regression, make_loader, make_trainer
) -> None:
    class ByHand(regression):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.net.append(nn.BatchNorm1d(1))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    with pytest.warns(UserWarning, match="not recomputed"):
        make_trainer(max_epochs=3, callbacks=averaging).fit(ByHand(), make_loader(3))


# -- modules --------------------------------------------------------------------------------------


def test_layers_of_configure_model_are_loaded(
    regression, make_loader, make_trainer, tmp_path
) -> None:
    class Late(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net = None

        def configure_model(self) -> None:
            if self.net is None:
                self.net = nn.Linear(4, 1)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, trainer = Late(), make_trainer()
    trainer.fit(module, make_loader(2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    loaded = Late.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(loaded.net.weight, module.net.weight)


def test_a_module_inside_another_knows_the_trainer(
    regression, make_loader, make_trainer, recorder
) -> None:
    class Inner(regression):
        def forward(self, x: Tensor) -> Tensor:
            self.logger.log_metrics({"seen": float(self.current_epoch)})
            return super().forward(x)

    class Outer(regression):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    make_trainer(max_epochs=2, logger=recorder).fit(Outer(), make_loader(1))
    assert recorder.values("seen") == [0.0, 1.0]


def test_a_part_cannot_log_and_is_told_who_can(regression, make_loader, make_trainer) -> None:
    class Outer(regression):
        def __init__(self) -> None:
            super().__init__()
            self.inner = regression()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.inner.training_step(batch, batch_idx)

    with pytest.raises(MisconfigurationException, match=r"self.part.log = self.log"):
        make_trainer().fit(Outer(), make_loader(1))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_complex_weights_stay_complex(
    precision: str, dtype: torch.dtype, regression, make_loader, make_trainer
) -> None:
    class Waves(regression):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.tensor([1 + 2j]))

    module = Waves()
    make_trainer(precision=precision).fit(module, make_loader(1))
    assert module.phase.dtype is torch.complex64 and module.phase.item() == 1 + 2j
    assert module.net[0].weight.dtype is dtype


def test_none_switches_an_inherited_hook_off(regression, make_loader, make_trainer) -> None:
    class Loud(regression):
        def on_train_start(self) -> None:
            raise AssertionError

        configure_model = configure_callbacks = on_train_end = on_train_start

    class Quiet(Loud):
        on_train_start = on_train_end = configure_model = configure_callbacks = None
        prepare_data = setup = val_dataloader = None

    class Still(Callback):
        on_train_start = setup = None

    trainer = make_trainer(callbacks=Still())
    trainer.fit(Quiet(), make_loader(1))
    trainer.save_checkpoint("a.ckpt")
    Quiet.load_from_checkpoint("a.ckpt")


@pytest.mark.parametrize("hook", ["async", "yields", 5])
def test_what_is_no_hook_is_refused(hook: Any, regression, make_loader, make_trainer) -> None:
    async def later(self: Any) -> None: ...

    def yields(self: Any) -> Any:
        yield

    own = {"async": later, "yields": yields}.get(hook, hook)
    module = type("Odd", (regression,), {"on_train_start": own})()
    with pytest.raises(MisconfigurationException, match=r"Odd\.on_train_start.*switch it off"):
        make_trainer().fit(module, make_loader(1))


def test_what_configure_callbacks_returns_is_checked(regression, make_loader, make_trainer) -> None:
    class Odd(regression):
        def configure_callbacks(self) -> Any:
            return [3]

    with pytest.raises(MisconfigurationException, match="returned 3, which is not a Callback"):
        make_trainer().fit(Odd(), make_loader(1))


def test_the_rank_by_its_idiom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert rank_zero_only.rank == 3
    assert rank_zero_only(lambda: 1)() is None
