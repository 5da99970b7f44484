"""`self.log`: which names arrive where, with which values, at which step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from scaffold_runtime import Callback
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger


@pytest.fixture
def logging(regression: Any) -> Any:
    """`logging(**hooks)`: a module whose hooks are these functions; its own steps log nothing."""

    def make(**hooks: Any) -> Any:
        quiet = {
            "training_step": lambda self, batch, batch_idx: self.loss(batch),
            "validation_step": lambda self, batch, batch_idx: None,
            "test_step": lambda self, batch, batch_idx: None,
        }

        def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
            hooks["training_step"](self, batch, batch_idx)
            return self.loss(batch)

        wrapped = {"training_step": training_step} if "training_step" in hooks else {}
        return type("Logging", (regression,), {**quiet, **hooks, **wrapped})()

    return make


# -- names and levels -----------------------------------------------------------------------------


def test_step_and_epoch_names_in_training(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("plain", float(batch_idx))
        self.log("both", float(batch_idx), on_step=True, on_epoch=True)
        self.log("epoch", float(batch_idx), on_step=False, on_epoch=True)

    trainer = make_trainer(logger=recorder)
    trainer.fit(logging(training_step=training_step), make_loader(4))
    assert recorder.rows == [
        *((i, {"epoch": 0, "plain": float(i), "both_step": float(i)}) for i in range(4)),
        (3, {"epoch": 1.5, "both_epoch": 1.5}),
    ]
    assert {k: float(v) for k, v in trainer.callback_metrics.items()} == {
        "plain": 3, "both": 1.5, "both_step": 3, "both_epoch": 1.5, "epoch": 1.5,
    }  # fmt: skip


def test_evaluation_logs_per_epoch_by_default(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("mean", float(batch_idx))
        self.log("both", float(batch_idx), on_step=True, on_epoch=True)

    trainer = make_trainer(logger=recorder, max_epochs=2)
    trainer.fit(logging(validation_step=validation_step), make_loader(3), make_loader(2))
    assert [(step, row["both_step"]) for step, row in recorder.rows if "both_step" in row] == [
        (0, 0.0), (1, 1.0), (2, 0.0), (3, 1.0),
    ]  # fmt: skip
    assert [(step, row["mean"]) for step, row in recorder.rows if "mean" in row] == [(2, 0.5), (5, 0.5)]  # fmt: skip
    assert recorder.values("both_epoch") == [0.5, 0.5]
    assert set(trainer.callback_metrics) == {"mean", "both", "both_epoch"}


def test_epoch_hooks_log_per_epoch(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    hooks = [f"on_train_{moment}" for moment in ("start", "epoch_start", "epoch_end")]
    hooks += ["on_validation_start", "on_validation_epoch_end"]
    module = logging(**{hook: lambda self, hook=hook: self.log(hook, 7.0) for hook in hooks})
    trainer = make_trainer(logger=recorder)
    trainer.fit(module, make_loader(2), make_loader(1))
    assert {hook: recorder.values(hook) for hook in hooks} == {hook: [7.0] for hook in hooks}
    assert set(hooks) <= set(trainer.callback_metrics)


def test_several_loaders_get_a_suffix(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def validation_step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("v", float(dataloader_idx + 1))
        self.log("plain", float(dataloader_idx + 1), add_dataloader_idx=False)

    module = logging(validation_step=validation_step)
    module.on_validation_epoch_end = lambda: module.log("all", 9.0)
    trainer = make_trainer(logger=recorder)
    first, second = trainer.validate(module, [make_loader(2), make_loader(1)])
    assert first == {"v/dataloader_idx_0": 1, "plain": 1, "all": 9}
    assert second == {"v/dataloader_idx_1": 2, "plain": 2, "all": 9}


def test_a_callback_logs_as_a_module_does(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Mine(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.log("from_callback", float(batch_idx))
            self.log_dict({"a": 1.0, "b": 2}, on_step=False, on_epoch=True)

    callback = Mine()
    make_trainer(logger=recorder, callbacks=callback).fit(logging(), make_loader(2))
    assert recorder.values("from_callback") == [0.0, 1.0]
    assert (recorder.values("a"), recorder.values("b")) == ([1.0], [2.0])
    assert not hasattr(callback, "log")


def test_a_key_called_step_is_the_x_axis(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("x", 1.0)
        self.log("step", 10.0 * batch_idx)

    make_trainer(logger=recorder).fit(logging(training_step=training_step), make_loader(3))
    assert recorder.steps("x") == [0, 10, 20]
    assert recorder.values("step") == []


def test_log_every_n_steps_counts_optimizer_steps(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    module = logging(training_step=lambda self, batch, i: self.log("i", float(i)))
    trainer = make_trainer(logger=recorder, log_every_n_steps=2, accumulate_grad_batches=2)
    trainer.fit(module, make_loader(8))
    assert list(zip(recorder.steps("i"), recorder.values("i"), strict=True)) == [(1, 3.0), (3, 7.0)]


def test_logger_and_prog_bar_choose_where_values_go(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("hidden", 1.0, logger=False, prog_bar=True, on_epoch=True)
        self.log("shown", 2.0, prog_bar=True)
        self.log("logged", 3.0)

    trainer = make_trainer(logger=recorder)
    trainer.fit(logging(training_step=training_step), make_loader(1))
    assert recorder.rows == [(0, {"epoch": 0, "shown": 2.0, "logged": 3.0})]
    assert trainer.progress_bar_metrics == {"hidden_step": 1.0, "hidden_epoch": 1.0, "shown": 2.0}
    assert trainer.logged_metrics == {"shown": 2.0, "logged": 3.0}
    assert set(trainer.callback_metrics) >= {"hidden", "hidden_step", "hidden_epoch", "shown", "logged"}  # fmt: skip


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize(
    "name", ["mean", "sum", "min", "max", torch.mean, torch.sum, min, max, sum]
)
def test_reductions(
    name: Any, as_tensor: bool, logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        value = torch.tensor(float(batch_idx + 1)) if as_tensor else batch_idx + 1
        self.log("v", value, on_step=False, on_epoch=True, reduce_fx=name)

    plain = name if isinstance(name, str) else name.__name__
    expected = {"mean": 2.5, "sum": 10.0, "min": 1.0, "max": 4.0}[plain]
    make_trainer(logger=recorder).fit(logging(training_step=training_step), make_loader(4))
    assert recorder.values("v") == [expected]


def test_means_are_weighted_by_batch_size(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    loader = make_loader(2, size=5, drop_last=False)
    loader = torch.utils.data.DataLoader(loader.dataset, batch_size=8)  # batches of 8 and 2

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("guessed", float(batch_idx), on_epoch=True)
        self.log("given", float(batch_idx), on_epoch=True, batch_size=batch_idx + 1)

    make_trainer(logger=recorder).fit(logging(training_step=training_step), loader)
    assert recorder.values("guessed_epoch") == [pytest.approx(0.2)]
    assert recorder.values("given_epoch") == [pytest.approx(2 / 3)]


def test_half_precision_values_are_summed_in_32_bits(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    value = torch.tensor(0.1, dtype=torch.bfloat16)
    module = logging(
        training_step=lambda self, batch, i: self.log("v", value, on_step=False, on_epoch=True)
    )
    make_trainer(logger=recorder).fit(module, make_loader(200, size=1))
    assert recorder.values("v") == [pytest.approx(float(value), rel=1e-5)]


def test_logging_neither_keeps_the_graph_nor_changes_the_value(
    logging: Any, make_loader: Any, make_trainer: Any
) -> None:
    held: list[Tensor] = []

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        value = self.loss(batch)
        held.append(value)
        self.log("v", value, on_step=True, on_epoch=True)

    trainer = make_trainer()
    trainer.fit(logging(training_step=training_step), make_loader(3))
    assert all(not value.requires_grad for value in trainer.callback_metrics.values())
    mean = torch.stack([value.detach() for value in held]).mean()
    assert torch.allclose(trainer.callback_metrics["v_epoch"], mean)


def test_a_metric_object_is_computed_and_reset_each_epoch(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def __init__(self) -> None:
            super().__init__()
            self.metric, self.stepwise, self.hidden = MeanMetric(), MeanMetric(), MeanMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.metric.update(float(batch_idx) + 10 * self.current_epoch)
            self.log("m", self.metric, on_step=False, on_epoch=True)
            self.stepwise(float(batch_idx))
            self.log("s", self.stepwise, on_step=True, on_epoch=True)
            self.hidden(float(batch_idx))
            self.log("h", self.hidden, on_step=True, logger=False)
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    make_trainer(logger=recorder, max_epochs=2).fit(Module(), make_loader(3))
    assert recorder.values("m") == [1.0, 11.0]
    assert recorder.values("s_step") == [0.0, 1.0, 2.0] * 2
    assert recorder.values("s_epoch") == [1.0, 1.0]
    assert not recorder.values("h")


def test_log_dict_takes_a_mapping_of_metrics(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def __init__(self) -> None:
            super().__init__()
            self.metrics = nn.ModuleDict({"a": MeanMetric(), "b": MeanMetric()})

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            for metric in self.metrics.values():
                metric.update(float(batch_idx))
            self.log_dict(dict(self.metrics.items()))

    (result,) = make_trainer(logger=recorder).validate(Module(), make_loader(3))
    assert result == {"a": 1.0, "b": 1.0}


# -- when values can be read ----------------------------------------------------------------------


def test_callback_metrics_at_each_moment(logging: Any, make_loader: Any, make_trainer: Any) -> None:
    seen: dict[str, set[str]] = {}

    class Watch(Callback):
        pass

    moments = ("on_sanity_check_end", "on_train_start", "on_train_batch_end", "on_validation_start")
    moments += ("on_validation_epoch_end", "on_validation_end", "on_train_epoch_end", "on_fit_end")
    for moment in moments:

        def hook(self: Any, trainer: Any, *args: Any, moment: str = moment) -> None:
            seen[moment] = set(trainer.callback_metrics)

        setattr(Watch, moment, hook)

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("t", 1.0, on_step=True, on_epoch=True)

    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("v", 1.0)

    module = logging(training_step=training_step, validation_step=validation_step)
    make_trainer(callbacks=Watch()).fit(module, make_loader(1), make_loader(1))
    assert seen == {
        "on_sanity_check_end": {"v"},
        "on_train_start": set(),  # what the sanity check logged is forgotten
        "on_train_batch_end": {"t", "t_step"},
        "on_validation_start": {"t", "t_step"},
        "on_validation_epoch_end": {"t", "t_step", "v"},
        "on_validation_end": {"t", "t_step", "v"},
        "on_train_epoch_end": {"t", "t_step", "t_epoch", "v"},
        "on_fit_end": {"t", "t_step", "t_epoch", "v"},
    }


def test_a_forked_name_is_the_step_value_until_the_epoch_ends(
    logging: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[float] = []

    def look(self: Any, *args: Any) -> None:
        seen.append(float(self.trainer.callback_metrics["t"]))

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("t", float(batch_idx), on_step=True, on_epoch=True)

    hooks = {"on_train_batch_end": look, "on_train_epoch_end": look}
    make_trainer().fit(logging(training_step=training_step, **hooks), make_loader(3))
    assert seen == [0.0, 1.0, 2.0, 1.0]


def test_each_run_starts_with_nothing_logged(
    logging: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer()
    trainer.fit(logging(training_step=lambda self, batch, i: self.log("a", 1.0)), make_loader(1))
    again = logging(training_step=lambda self, batch, i: self.log("a", 1.0, prog_bar=True))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(again, make_loader(1))  # the same name with other options, in another run
    assert trainer.progress_bar_metrics == {"a": 1.0}
    trainer.test(logging(test_step=lambda self, batch, i: self.log("t", 1.0)), make_loader(1))
    assert set(trainer.callback_metrics) == {"t"}


def test_results_of_validate_and_test(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    module, loader = regression(), make_loader(3)
    trainer = make_trainer()
    (validated,) = trainer.validate(module, loader)
    (tested,) = trainer.test(module, loader)
    mean = torch.stack([module.loss(batch).detach() for batch in loader]).mean().item()
    assert validated == {"val_loss": pytest.approx(mean)}
    assert tested == {"test_loss": pytest.approx(mean)}
    assert all(type(value) is float for value in validated.values())


# -- where it is not possible ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("setup", "during set-up"),
        ("configure_optimizers", "during set-up"),
        ("on_fit_start", "during set-up"),
        ("on_fit_end", "after training"),
        ("teardown", "after training"),
    ],
)
def test_forbidden_in_hooks_outside_of_loops(
    hook: str, where: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = regression()
    setattr(module, hook, lambda *args: module.log("x", 1.0))
    with pytest.raises(MisconfigurationException, match=rf"'x'.*cannot be called {where}"):
        make_trainer().fit(module, make_loader(1))


def test_forbidden_in_predict(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    module = regression()
    module.predict_step = lambda batch, batch_idx: module.log("x", 1.0)
    with pytest.raises(MisconfigurationException, match="cannot be called"):
        make_trainer().predict(module, make_loader(1))


def test_without_a_trainer_it_warns_and_goes_on(regression: Any) -> None:
    with pytest.warns(UserWarning, match="without a trainer"):
        regression().log("x", 1.0)


def test_barebones_logs_nothing_and_says_so(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(barebones=True)
    with pytest.warns(UserWarning, match=r"under Trainer\(barebones=True\)"):
        trainer.fit(regression(), make_loader(2))
    assert trainer.callback_metrics == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda self: self.log("x", torch.ones(2)), r"shape \(2,\).*one number"),
        (lambda self: self.log("x", "high"), "got a str.*log a number"),
        (lambda self: self.log("x", {"a": 1.0}), "got a dict"),
        (lambda self: self.log("x", None), "got a NoneType"),
        (lambda self: self.log("x", torch.tensor(1j)), "got a complex tensor"),
        (lambda self: self.log(3, 1.0), "needs a name, got 3"),
        (lambda self: self.log("x", 1.0, reduce_fx="median"), "'median'.*'mean', 'sum', 'min' or 'max'"),
        (lambda self: self.log("x", 1.0, reduce_fx=torch.prod), "prod.*'mean', 'sum', 'min' or 'max'"),
        (lambda self: self.log("x", 1.0, on_step=False, on_epoch=False), "would log nothing"),
        (lambda self: (self.log("x", 1.0), self.log("x", 1.0, prog_bar=True)), "other.*prog_bar=False, and now True"),
    ],
)  # fmt: skip
def test_mistakes_say_what_to_do(
    call: Any, message: str, logging: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = logging(training_step=lambda self, batch, i: call(self))
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer().fit(module, make_loader(1))


def test_on_step_in_an_epoch_hook_is_an_error(
    logging: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = logging(on_train_epoch_end=lambda self: self.log("x", 1.0, on_step=True))
    with pytest.raises(MisconfigurationException, match=r"on_step=True.*no step is running"):
        make_trainer().fit(module, make_loader(1))


@pytest.mark.parametrize(
    "value", [1, True, 1.5, torch.tensor(2), torch.tensor([3.0]), torch.tensor([[4.0]]), torch.tensor(True)]
)  # fmt: skip
def test_whatever_is_one_number_can_be_logged(
    value: Any, logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    module = logging(training_step=lambda self, batch, i: self.log("v", value, on_epoch=True))
    make_trainer(logger=recorder).fit(module, make_loader(2))
    assert recorder.values("v_step") == [float(value)] * 2
    assert recorder.values("v_epoch") == [float(value)]


def test_sync_arguments_are_accepted_in_one_process(
    logging: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("v", 1.0, sync_dist=True, sync_dist_group=None, rank_zero_only=True)
        self.log_dict({"w": 1.0}, enable_graph=True, sync_dist=True)

    make_trainer(logger=recorder).fit(logging(training_step=training_step), make_loader(1))
    assert recorder.values("v") == [1.0]


@pytest.mark.parametrize(
    ("often", "options", "said"),
    [
        (
            5,
            {},
            "'loss' is logged at steps only, and the 4 steps of this training are fewer than log_",
        ),
        (4, {}, ""),
        (5, {"on_epoch": True}, ""),
        (5, {"logger": False}, ""),
        (0, {}, ""),  # asked for
    ],
)
def test_steps_that_are_too_few_to_be_logged_are_said(
    often: int, options: dict[str, Any], said: str, regression, make_loader, make_trainer, capsys
) -> None:
    class Logs(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, **options)
            return loss

    trainer = make_trainer(max_epochs=2, log_every_n_steps=often, logger=CSVLogger("logs"))
    trainer.fit(Logs(), make_loader(2))

    output = capsys.readouterr().out
    assert said in output
    assert bool(said) == ("none was logged" in output)


@pytest.mark.parametrize(("batches", "step"), [(3, 2), (60, 49)])
def test_a_loss_that_is_not_finite_is_said_once(
    batches: int, step: int, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """At a log step, or where an epoch ends before there is one."""

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * float("nan")

    with pytest.warns(UserWarning, match=f"not finite at step {step}") as warned:
        make_trainer(max_epochs=2, log_every_n_steps=50).fit(Module(), make_loader(batches))
    assert len(warned) == 1
