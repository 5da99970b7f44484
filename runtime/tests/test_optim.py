"""`configure_optimizers`: every form it may return, every one it may not, and when schedulers step."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from scaffold_runtime import Callback
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.optim import LightningOptimizer, parse_optimizers
from scaffold_runtime.plugins import MixedPrecision


@pytest.fixture
def configured(regression: Any) -> Any:
    """`configured(function, manual=False)`: a module whose `configure_optimizers` is `function(self)`."""

    def make(function: Any, manual: bool = False) -> Any:
        class Module(regression):
            automatic_optimization = not manual

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self.loss(batch)
                self.log("loss", loss, on_step=True, on_epoch=True)
                return None if manual else loss

            def configure_optimizers(self) -> Any:
                return function(self)

        return Module()

    return make


def sgd(module: Any) -> SGD:
    return SGD(module.parameters(), lr=1.0)


def halving(optimizer: Any) -> StepLR:
    return StepLR(optimizer, 1, 0.5)


# -- forms ----------------------------------------------------------------------------------------

ONE_OPTIMIZER = [
    lambda self: sgd(self),
    lambda self: [sgd(self)],
    lambda self: (sgd(self),),
    lambda self: ([sgd(self)], []),
    lambda self: {"optimizer": sgd(self)},
    lambda self: [{"optimizer": sgd(self)}],
    lambda self: ({"optimizer": sgd(self)},),
    lambda self: {"optimizer": sgd(self), "lr_scheduler": None},
]


@pytest.mark.parametrize("form", ONE_OPTIMIZER)
def test_forms_of_one_optimizer(form: Any, configured: Any, make_loader: Any, make_trainer: Any) -> None:  # fmt: skip
    trainer = make_trainer()
    trainer.fit(configured(form), make_loader(1))
    assert [type(optimizer) for optimizer in trainer.optimizers] == [SGD]
    assert trainer.lr_scheduler_configs == []


def with_scheduler(shape: Any) -> Any:
    def form(self: Any) -> Any:
        optimizer = sgd(self)
        return shape(optimizer, halving(optimizer))

    return form


ONE_SCHEDULER = [
    lambda o, s: ([o], [s]),
    lambda o, s: [[o], [s]],
    lambda o, s: ([o], [{"scheduler": s}]),
    lambda o, s: ([o], s),
    lambda o, s: {"optimizer": o, "lr_scheduler": s},
    lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "epoch", "frequency": 1}},
    lambda o, s: [{"optimizer": o, "lr_scheduler": {"scheduler": s, "name": "mine"}}],
]  # fmt: skip


@pytest.mark.parametrize("shape", ONE_SCHEDULER)
def test_forms_of_one_scheduler(shape: Any, configured: Any, make_loader: Any, make_trainer: Any) -> None:  # fmt: skip
    trainer = make_trainer(max_epochs=2)
    trainer.fit(configured(with_scheduler(shape)), make_loader(3))
    (config,) = trainer.lr_scheduler_configs
    assert (config.interval, config.frequency) == ("epoch", 1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_none_trains_without_an_optimizer(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = configured(lambda self: None)
    before = [parameter.clone() for parameter in module.parameters()]
    with pytest.warns(UserWarning, match="returned None"):
        make_trainer().fit(module, make_loader(2))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_several_optimizers_and_schedulers_in_manual_optimization(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    def both(self: Any) -> Any:
        made = [sgd(self), sgd(self)]
        return made, [halving(made[0]), {"scheduler": halving(made[1]), "interval": "step"}]

    module = configured(both, manual=True)
    trainer = make_trainer()
    seen: list[Any] = []
    module.on_train_start = lambda: seen.extend([module.optimizers(), module.lr_schedulers()])
    trainer.fit(module, make_loader(2))
    optimizers, schedulers = seen
    assert all(isinstance(optimizer, LightningOptimizer) for optimizer in optimizers)
    assert [type(scheduler) for scheduler in schedulers] == [StepLR, StepLR]
    # Stepped by hand only.
    assert {o.param_groups[0]["lr"] for o in trainer.optimizers} == {1.0}


def test_one_of_each_is_given_bare(configured: Any, make_loader: Any, make_trainer: Any) -> None:
    module = configured(with_scheduler(lambda o, s: ([o], [s])), manual=True)
    seen: list[Any] = []
    module.on_train_start = lambda: seen.extend(
        [module.optimizers(), module.optimizers(use_pl_optimizer=False), module.lr_schedulers()]
    )
    make_trainer().fit(module, make_loader(1))
    wrapped, bare, scheduler = seen
    assert wrapped.optimizer is bare
    assert wrapped.param_groups is bare.param_groups
    assert isinstance(scheduler, StepLR)


def test_without_schedulers_lr_schedulers_is_none(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = configured(sgd, manual=True)
    seen: list[Any] = []
    module.on_train_start = lambda: seen.append(module.lr_schedulers())
    make_trainer().fit(module, make_loader(1))
    assert seen == [None]


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda o, s: "adam", "returned a str"),
        (lambda o, s: 3, "returned a int"),
        (lambda o, s: o.param_groups, "returned a dict where an optimizer belongs"),
        (lambda o, s: [o, "adam"], "returned a str where an optimizer belongs"),
        (lambda o, s: (o, s), "returned a StepLR where an optimizer belongs"),
        (lambda o, s: {"optimiser": o}, "key 'optimiser'.*Did you mean `optimizer`"),
        (lambda o, s: {"lr_scheduler": s}, 'without "optimizer"'),
        (lambda o, s: {"optimizer": o, "scheduler": s}, "key 'scheduler'.*Did you mean `lr_scheduler`"),
        (lambda o, s: ([o], [{"interval": "step"}]), 'lacks the key "scheduler"'),
        (lambda o, s: ([o], [{"scheduler": s, "intervall": "step"}]), "'intervall'.*Did you mean `interval`"),
        (lambda o, s: ([o], [{"scheduler": s, "interval": "batch"}]), "interval='batch': choose 'epoch' or 'step'"),
        (lambda o, s: ([o], [{"scheduler": s, "frequency": 0}]), "frequency=0.*at least 1"),
        (lambda o, s: ([o], [{"scheduler": s, "frequency": 0.5}]), "frequency=0.5.*at least 1"),
        (lambda o, s: ([o], [object()]), "object that `configure_optimizers` returned has no `step"),
        (lambda o, s: ([o], [ReduceLROnPlateau(o)]), "ReduceLROnPlateau needs a monitor"),
        (lambda o, s: [SGD(o.param_groups[0]["params"], 1.0), o], "2 optimizers.*automatic_optimization = False"),
    ],
)  # fmt: skip
def test_what_is_refused(
    shape: Any, message: str, configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer().fit(configured(with_scheduler(shape)), make_loader(1))


def test_a_scheduler_of_another_optimizer_is_refused(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = configured(lambda self: ([sgd(self)], [halving(sgd(self))]))
    with pytest.raises(
        MisconfigurationException, match=r"belongs to an optimizer that .* did not return"
    ):
        make_trainer().fit(module, make_loader(1))


def test_one_cycle_per_epoch_is_warned_about(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    def form(self: Any) -> Any:
        optimizer = sgd(self)
        return [optimizer], [OneCycleLR(optimizer, max_lr=1.0, total_steps=10)]

    with pytest.warns(UserWarning, match="OneCycleLR.*interval='step'"):
        make_trainer().fit(configured(form), make_loader(1))


def test_parsing_needs_no_module() -> None:
    assert parse_optimizers(None) == ([], [])


# -- when schedulers step -------------------------------------------------------------------------


@pytest.fixture
def rates(configured: Any, make_loader: Any, make_trainer: Any) -> Any:
    """`rates(options, batches=, **trainer)`: the learning rate each batch was trained with."""

    def run(options: dict[str, Any], batches: int = 4, **arguments: Any) -> list[float]:
        seen: list[float] = []

        class Watch(Callback):
            def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        module = configured(with_scheduler(lambda o, s: ([o], [{"scheduler": s, **options}])))
        trainer = make_trainer(callbacks=Watch(), **{"max_epochs": 2, **arguments})
        trainer.fit(module, make_loader(batches))
        return seen

    return run


def test_interval_epoch(rates: Any) -> None:
    assert rates({}, batches=2, max_epochs=3) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_interval_epoch_with_frequency(rates: Any) -> None:
    assert rates({"frequency": 2}, batches=1, max_epochs=5) == [1, 1, 0.5, 0.5, 0.25]


def test_interval_step(rates: Any) -> None:
    assert rates({"interval": "step"}, batches=2) == [1, 0.5, 0.25, 0.125]


def test_interval_step_with_frequency_counts_optimizer_steps(rates: Any) -> None:
    assert rates({"interval": "step", "frequency": 2}, batches=3) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_interval_step_with_accumulation(rates: Any) -> None:
    seen = rates({"interval": "step"}, batches=4, max_epochs=1, accumulate_grad_batches=2)
    assert seen == [1, 1, 0.5, 0.5]


@pytest.mark.parametrize("strict", [True, False])
def test_plateau_without_its_metric(
    strict: bool, configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    def form(self: Any) -> Any:
        optimizer = sgd(self)
        plateau = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "lss", "strict": strict}
        return {"optimizer": optimizer, "lr_scheduler": plateau}

    message = "ReduceLROnPlateau monitors 'lss'.*Did you mean `loss`"
    if strict:
        with pytest.raises(MisconfigurationException, match=message):
            make_trainer().fit(configured(form), make_loader(1))
    else:
        with pytest.warns(UserWarning, match=message):
            make_trainer().fit(configured(form), make_loader(1))


def test_plateau_on_a_step_metric(configured: Any, make_loader: Any, make_trainer: Any) -> None:
    def form(self: Any) -> Any:
        optimizer = sgd(self)
        plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.9)
        config = {"scheduler": plateau, "monitor": "loss", "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    trainer = make_trainer()
    trainer.fit(configured(form), make_loader(3))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_own_lr_scheduler_step(configured: Any, make_loader: Any, make_trainer: Any) -> None:
    seen: list[Any] = []
    module = configured(with_scheduler(lambda o, s: ([o], [{"scheduler": s, "monitor": "loss"}])))

    def lr_scheduler_step(scheduler: Any, metric: Any) -> None:
        seen.append(float(metric))
        scheduler.step(epoch=module.current_epoch)

    module.lr_scheduler_step = lr_scheduler_step
    trainer = make_trainer()
    with pytest.warns(UserWarning, match="epoch parameter"):
        trainer.fit(module, make_loader(2))
    assert seen == [float(trainer.callback_metrics["loss"])]


def test_a_scheduler_that_is_not_torchs(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Mine:
        steps = 0

        def step(self) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.steps}

    mine = Mine()
    make_trainer(max_epochs=3).fit(configured(lambda self: ([sgd(self)], [mine])), make_loader(1))
    assert mine.steps == 3


def test_a_function_that_a_scheduler_has_is_no_part_of_its_state(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    """SWALR of torch 2.9 keeps one where others of torch leave theirs out."""

    def shaped(self: Any) -> Any:
        optimizer = sgd(self)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        scheduler.shape = self.forward
        return [optimizer], [scheduler]

    trainer = make_trainer(max_epochs=1)
    trainer.fit(configured(shaped), make_loader(1))
    trainer.save_checkpoint("one.ckpt")
    trainer = make_trainer(max_epochs=2)
    trainer.fit(configured(shaped), make_loader(1), ckpt_path="one.ckpt")
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.last_epoch == 2
    assert config.scheduler.shape == trainer.lightning_module.forward


# -- stepping -------------------------------------------------------------------------------------


def test_global_step_counts_steps_that_happened(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def optimizer_step(
            self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
        ) -> None:
            if batch_idx % 2 == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    trainer = make_trainer()
    trainer.fit(Module(), make_loader(5))
    assert trainer.global_step == 3


def test_manual_steps_count_batches_in_which_an_optimizer_stepped(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(self.loss(batch) / 2)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()

    trainer = make_trainer()
    trainer.fit(Module(), make_loader(5))
    assert trainer.global_step == 2


def test_a_module_that_keeps_its_optimizer_can_be_copied(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.kept = self.optimizers()

    module = Module()
    make_trainer().fit(module, make_loader(1))
    other = copy.deepcopy(module)
    assert other.kept.param_groups[0]["params"] == list(other.parameters())
    assert pickle.loads(pickle.dumps(module.kept)).param_groups[0]["lr"] == module.lr


def test_a_first_step_that_overflows_comes_before_its_scheduler(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    """The scaler left it out, which is no order in which anybody wrote things: torch would warn of it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)

    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": StepLR(optimizer, 1), "interval": "step"}]

    module = configured(configure)
    before = module.net[0].weight.clone()
    make_trainer(plugins=MixedPrecision("16-mixed", "cpu", scaler)).fit(module, make_loader(1))
    assert torch.equal(module.net[0].weight, before) and scaler.get_scale() < 2.0**40


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_skipped_batches_step_nothing(
    precision: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 2 else self.loss(batch)

    trainer = make_trainer(precision=precision)
    with pytest.warns(UserWarning, match="the batch is skipped"):
        trainer.fit(Module(), make_loader(5))
    assert trainer.global_step == 3


def test_a_skipped_batch_within_a_window_leaves_the_others(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else self.loss(batch)

    trainer = make_trainer(accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match="skipped"):
        trainer.fit(Module(), make_loader(4))
    assert trainer.global_step == 2


@pytest.mark.parametrize("leaves", ["nothing", "the step", "the run"])
def test_gradients_that_were_unscaled_before_their_step(
    leaves: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Two optimizers, both clipped before either steps; or a batch, or a run, that ends between the two."""
    norms: list[float] = []
    first = make_loader(1)

    class Module(regression):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            parts = (self.net[0], self.net[2])
            self.made = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            for optimizer in self.optimizers():
                self.clip_gradients(optimizer, 1e6)
            if leaves == "the run" and self.trainer.train_dataloader is first:
                raise ZeroDivisionError
            if leaves == "the step" and not batch_idx:
                return
            for part, optimizer in zip((self.net[0], self.net[2]), self.optimizers(), strict=True):
                before = part.weight.detach().clone()
                optimizer.step()
                norms.append(float((part.weight - before).detach().norm()))

        def configure_optimizers(self) -> Any:
            return self.made

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer, module = make_trainer(plugins=MixedPrecision("16-mixed", "cpu", scaler)), Module()
    if leaves == "the run":
        with pytest.raises(ZeroDivisionError):
            trainer.fit(module, first)
    trainer.fit(module, make_loader(3))
    assert len(norms) >= 4 and all(1e-3 < norm < 1 for norm in norms), norms


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (1.0, "returned a float.*Return the loss"),
        ("loss", "returned a str"),
        ((torch.ones(1), 2), "returned a tuple"),
        ({"los": torch.ones(1)}, r"keys \['los'\] but no \"loss\""),
        ({"loss": None}, 'no "loss"'),
        ({"loss": 1.0}, "is a float"),
        ({"loss": torch.ones(2)}, r"the loss has the shape"),
        (torch.ones(2), r"the loss has the shape \(2,\).*its mean"),
    ],
)
def test_what_training_step_may_not_return(
    output: Any, message: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = regression()
    module.training_step = lambda batch, batch_idx: output
    with pytest.raises(StepError, match=message):
        make_trainer().fit(module, make_loader(1))


def test_outputs_are_detached_and_whole(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            return {"loss": loss, "x": loss * 2, "name": "n"} if batch_idx else loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs)

    make_trainer(accumulate_grad_batches=2).fit(Module(), make_loader(2))
    assert list(seen[0]) == ["loss"] and list(seen[1]) == ["loss", "x", "name"]
    assert not any(
        value.requires_grad for value in (seen[0]["loss"], seen[1]["loss"], seen[1]["x"])
    )
    assert torch.equal(seen[1]["x"], seen[1]["loss"] * 2)  # the loss is not divided by the window


def test_own_backward_zero_grad_and_clipping_are_used(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[str] = []

    class Module(regression):
        def backward(self, loss: Any) -> None:
            seen.append("backward")
            loss.backward(retain_graph=True)

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            seen.append("zero")
            optimizer.zero_grad(set_to_none=False)

        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            seen.append(f"clip {gradient_clip_val} {gradient_clip_algorithm}")
            self.clip_gradients(optimizer, gradient_clip_algorithm="value")

    make_trainer(gradient_clip_val=1.5).fit(Module(), make_loader(1))
    assert seen == ["zero", "backward", "clip 1.5 None"]


class Looks(Callback):
    """It may look at gradients where they are cleared."""

    def on_before_zero_grad(self, *given: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("optimizer", "accumulate", "callbacks", "there"),
    [
        (SGD, 1, [], [False, False, False, False]),
        (SGD, "auto", [], [False, False, False, False]),
        (torch.optim.LBFGS, 1, [], [False, False, False, False]),
        (SGD, 2, [], [False, True, False, True]),
        (SGD, 1, [Looks()], [False, True, True, True]),
        (torch.optim.LBFGS, 1, [Looks()], [False, True, True, True]),
    ],
)
def test_gradients_go_before_forward_where_no_hook_looks(
    optimizer: Any,
    accumulate: Any,
    callbacks: Any,
    there: Any,
    make_loader: Any,
    make_trainer: Any,
    regression: Any,
) -> None:
    """So forward has their memory. From backward on they can be looked at, until the next forward."""
    before, after = [], []

    class Module(regression):
        def grad(self) -> bool:
            return self.net[0].weight.grad is not None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            before.append(self.grad())
            return self.loss(batch)

        def on_train_batch_end(self, *given: Any) -> None:
            after.append(self.grad())

        def configure_optimizers(self) -> Any:
            once = {"max_iter": 1} if optimizer is torch.optim.LBFGS else {}
            return optimizer(self.parameters(), lr=0.1, **once)

    make_trainer(callbacks=callbacks, accumulate_grad_batches=accumulate).fit(
        Module(), make_loader(4)
    )
    assert before == there and all(after) and len(after) == 4


def test_toggle_optimizer_freezes_the_others_parameters(
    make_loader: Any, make_trainer: Any, regression: Any
) -> None:
    class Module(regression):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[2])]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            frozen = self.net[0].bias.requires_grad_(False)
            with self.toggled_optimizer(second):
                assert not self.net[0].weight.requires_grad and self.net[2].weight.requires_grad
            assert self.net[0].weight.requires_grad and not frozen.requires_grad
            with first.toggle_model():
                assert not self.net[2].weight.requires_grad
            assert self.net[2].weight.requires_grad

    make_trainer().fit(Module(), make_loader(1))


def test_a_toggled_block_that_raises_leaves_gradients_syncing(
    make_loader: Any, make_trainer: Any, regression: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module(regression):
        automatic_optimization = False
        said: list[bool] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            prepared = replace(self.trainer._run.prepared, set_syncing=self.said.append)
            monkeypatch.setattr(self.trainer._run, "prepared", prepared)
            with suppress(KeyError), self.optimizers().toggle_model(sync_grad=False):
                raise KeyError

    make_trainer().fit(Module(), make_loader(1))
    assert Module.said == [False, True]


def test_manual_backward_belongs_to_manual_optimization(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = regression()
    module.training_step = lambda batch, batch_idx: module.manual_backward(module.loss(batch))
    with pytest.raises(MisconfigurationException, match="automatic_optimization = False"):
        make_trainer().fit(module, make_loader(1))


@pytest.mark.parametrize("arguments", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_manual_optimization_refuses_automatic_arguments(
    arguments: Any, configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    with pytest.raises(MisconfigurationException, match="has no effect in manual optimization"):
        make_trainer(**arguments).fit(configured(sgd, manual=True), make_loader(1))


def test_lbfgs_refuses_a_gradient_scaler(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = configured(lambda self: torch.optim.LBFGS(self.parameters()))
    with pytest.raises(MisconfigurationException, match="gradient scaler"):
        make_trainer(precision="16-mixed").fit(module, make_loader(1))


def test_scheduler_name_does_not_matter_to_stepping(rates: Any) -> None:
    assert rates({"name": "warmup"}, batches=1) == [1, 0.5]


def test_lambda_schedulers_see_their_own_count(
    configured: Any, make_loader: Any, make_trainer: Any
) -> None:
    def form(self: Any) -> Any:
        optimizer = sgd(self)
        return [optimizer], [LambdaLR(optimizer, lambda epoch: 1.0 + epoch)]

    trainer = make_trainer(max_epochs=3)
    trainer.fit(configured(form), make_loader(1))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 4.0


def test_an_optimizer_of_other_parameters_is_said(regression, make_loader, make_trainer) -> None:
    class Remade(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            self.net = torch.nn.Linear(4, 1)
            return optimizer

    with pytest.warns(UserWarning, match="none of the parameters of Remade"):
        make_trainer().fit(Remade(), make_loader(1))
