"""Hooks: who has which, in which order they run, and what they cost."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import scaffold_runtime
from scaffold_runtime import Callback, LightningDataModule, LightningModule
from scaffold_runtime.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import hook_names
from scaffold_runtime.plugins import TorchCheckpointIO
from scaffold_runtime.table import REMOVED_HOOKS

PACKAGE = str(Path(scaffold_runtime.__file__).parent)


def recording(base: type, names: Any, seen: list[str], mark: str) -> type:
    """A subclass of `base` that notes each of `names` and then does what `base` does."""

    def note(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(mark + name)
            return getattr(super(made, self), name)(*args, **kwargs)

        hook.__signature__ = inspect.signature(getattr(base, name))  # type: ignore[attr-defined]
        return hook

    made = type(f"Recording{base.__name__}", (base,), {name: note(name) for name in names})
    return made


def parameters_of(owner: type, hook: str) -> list[str]:
    return list(inspect.signature(getattr(owner, hook)).parameters)


@pytest.fixture
def watched(regression: Any) -> tuple[Any, Any, list[str]]:
    """A callback and a module that note every hook, and the list they write into."""
    seen: list[str] = []
    steps = [f"{stage}_step" for stage in ("training", "validation", "test", "predict")]
    other = ["configure_optimizers", "prepare_data", "backward", "optimizer_zero_grad"]
    other += ["configure_gradient_clipping", "configure_model", "configure_callbacks"]
    other += ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"]
    mine = [*hook_names(LightningModule), *steps, *other]
    module = recording(regression, mine, seen, "m.")()
    callback = recording(Callback, hook_names(Callback), seen, "c.")()
    return callback, module, seen


# -- who has which --------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", hook_names(Callback))
def test_a_hook_takes_the_same_wherever_it_is(hook: str) -> None:
    own, trainer, module, *arguments = parameters_of(Callback, hook)
    assert (own, trainer, module) == ("self", "trainer", "pl_module")
    for base in (LightningModule, LightningDataModule):
        if hook in hook_names(base):
            assert parameters_of(base, hook) == ["self", *arguments]


def test_what_is_no_hook() -> None:
    """Data hooks change a batch, and a property is none; neither is called by the table."""
    hooks = {*hook_names(Callback), *hook_names(LightningModule), *hook_names(LightningDataModule)}
    others = {"on_before_batch_transfer", "on_after_batch_transfer", "on_gpu", "state_dict", "log"}
    assert not hooks & others


def test_every_hook_is_called(
    watched: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    callback, module, seen = watched
    loader = make_loader(2)
    trainer = make_trainer(callbacks=callback)
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    make_trainer(callbacks=callback, max_epochs=2).fit(
        module, loader, loader, ckpt_path=tmp_path / "a.ckpt"
    )
    for function in (trainer.validate, trainer.test, trainer.predict):
        function(module, loader)
    module.predict_step = None  # cannot be called
    with pytest.raises(TypeError):
        trainer.predict(module, loader)
    expected = {f"c.{hook}" for hook in hook_names(Callback)}
    expected |= {f"m.{hook}" for hook in hook_names(LightningModule)}
    assert expected - set(seen) == set()


# -- the order, as Lightning executes it ----------------------------------------------------------

words = str.split

SET_UP = words("m.configure_callbacks m.prepare_data c.setup m.setup m.configure_model")
BATCH = words("""
    m.on_before_batch_transfer m.transfer_batch_to_device m.on_after_batch_transfer
    c.on_train_batch_start m.on_train_batch_start m.training_step
    c.on_before_zero_grad m.on_before_zero_grad m.optimizer_zero_grad
    c.on_before_backward m.on_before_backward m.backward c.on_after_backward m.on_after_backward
    c.on_before_optimizer_step m.on_before_optimizer_step m.configure_gradient_clipping
    c.on_train_batch_end m.on_train_batch_end
""")


def evaluation(stage: str) -> list[str]:
    return f"""
        m.on_{stage}_model_eval c.on_{stage}_start m.on_{stage}_start
        c.on_{stage}_epoch_start m.on_{stage}_epoch_start
        m.on_before_batch_transfer m.transfer_batch_to_device m.on_after_batch_transfer
        c.on_{stage}_batch_start m.on_{stage}_batch_start m.{stage}_step
        c.on_{stage}_batch_end m.on_{stage}_batch_end
        c.on_{stage}_epoch_end m.on_{stage}_epoch_end
        c.on_{stage}_end m.on_{stage}_end m.on_{stage}_model_train
    """.split()


def test_order_of_fit(watched: Any, make_loader: Any, make_trainer: Any) -> None:
    callback, module, seen = watched
    trainer = make_trainer(callbacks=callback, num_sanity_val_steps=1)
    trainer.fit(module, make_loader(2), make_loader(1))
    assert seen == [
        *SET_UP,
        *words("m.configure_optimizers c.on_fit_start m.on_fit_start c.on_sanity_check_start"),
        *evaluation("validation"),
        *words("c.on_sanity_check_end c.on_train_start m.on_train_start"),
        *words("c.on_train_epoch_start m.on_train_epoch_start"),
        *BATCH,
        *BATCH,
        "m.on_validation_model_zero_grad",
        *evaluation("validation"),
        *words("c.on_train_epoch_end m.on_train_epoch_end c.on_train_end m.on_train_end"),
        *words("c.on_fit_end m.on_fit_end c.teardown m.teardown"),
    ]


@pytest.mark.parametrize(
    ("function", "stage"),
    [("validate", "validation"), ("test", "test"), ("predict", "predict")],
)
def test_order_of_evaluation(
    function: str, stage: str, watched: Any, make_loader: Any, make_trainer: Any
) -> None:
    callback, module, seen = watched
    getattr(make_trainer(callbacks=callback), function)(module, make_loader(1))
    assert seen == [*SET_UP, *evaluation(stage), "c.teardown", "m.teardown"]


def test_order_within_an_accumulation_window(
    watched: Any, make_loader: Any, make_trainer: Any
) -> None:
    callback, module, seen = watched
    make_trainer(callbacks=callback, accumulate_grad_batches=2).fit(module, make_loader(3))
    once = ("zero_grad", "optimizer_step", "clipping")
    counts = {part: sum(part in name and name[0] == "m" for name in seen) for part in once}
    assert counts == {"zero_grad": 4, "optimizer_step": 2, "clipping": 2}  # zeroing has two names
    assert seen.count("m.backward") == 3


def test_order_when_an_error_is_raised(watched: Any, make_loader: Any, make_trainer: Any) -> None:
    callback, module, seen = watched

    def fail(batch: Any, batch_idx: int) -> None:
        raise ValueError("boom")

    module.training_step = fail
    with pytest.raises(ValueError, match="boom"):
        make_trainer(callbacks=callback).fit(module, make_loader(1))
    assert seen[-2:] == ["m.on_train_batch_start", "c.on_exception"]


@pytest.mark.parametrize("owner", ["callback", "datamodule", "logger", "checkpoint_io"])
def test_what_fails_on_the_way_out_is_said_and_the_first_error_is_raised(
    owner: str, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any, capsys: Any
) -> None:
    told: list[str] = []

    def breaks(*arguments: Any, **more: Any) -> None:
        raise OSError("of the way out")

    def boom(*arguments: Any) -> None:
        raise ValueError("boom")

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return make_loader(1)

    parts = {
        "callback": LambdaCallback(),
        "datamodule": Data(),
        "logger": recorder,
        "checkpoint_io": TorchCheckpointIO(),
    }
    name = {"logger": "attempt", "checkpoint_io": "teardown"}.get(owner, "on_exception")
    setattr(parts[owner], name, breaks)
    last = LambdaCallback(on_exception=lambda *error: told.append(str(error[2])))
    module = regression()
    trainer = make_trainer(
        callbacks=[parts["callback"], last], logger=[recorder], plugins=parts["checkpoint_io"]
    )
    last.on_train_batch_start = boom

    with pytest.raises(ValueError, match="boom") as caught:
        trainer.fit(module, datamodule=parts["datamodule"])

    assert told == ["boom"]
    assert caught.value.__context__ is None
    said = capsys.readouterr().err
    assert "in breaks" in said and "OSError: of the way out" in said and "boom" not in said


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_validation_that_failed_leaves_a_module_that_trains(
    error: type[BaseException], regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    modes: list[bool] = []

    class Interrupted(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            modes.append(self.net.training)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise error

    module = Interrupted()
    with pytest.raises(error):
        make_trainer(num_sanity_val_steps=0).fit(module, make_loader(1), make_loader(1))
    make_trainer().fit(module, make_loader(1))

    assert modes == [True, True]


def test_monitors_come_last_at_the_end_of_an_epoch(
    regression: Any, make_loader: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noting(kind: type) -> type:
        def hook(self: Any, trainer: Any, pl_module: Any) -> None:
            seen.append(kind.__name__)

        return type(kind.__name__, (kind,), {"on_train_epoch_end": hook})

    class Module(regression):
        def on_train_epoch_end(self) -> None:
            seen.append("module")

    callbacks = [noting(ModelCheckpoint)(), noting(EarlyStopping)("loss"), noting(Callback)()]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(Module(), make_loader(1))
    assert seen == ["Callback", "module", "EarlyStopping", "ModelCheckpoint"]


def test_minus_one_from_batch_start_skips_the_rest_of_the_epoch(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 2 else None

        def on_train_epoch_end(self) -> None:
            self.trainer.save_checkpoint("skipped.ckpt")

    trainer = make_trainer(max_epochs=2)
    trainer.fit(Module(), make_loader(5))
    assert trainer.global_step == 4
    assert trainer.current_epoch == 2
    assert "torn" not in torch.load("skipped.ckpt")


def test_the_steps_may_leave_out_batch_idx(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def training_step(self, batch: Any) -> Any:
            return self.loss(batch)

        def validation_step(self, batch: Any) -> None:
            self.log("val_loss", self.loss(batch))

        def predict_step(self, batch: Any) -> Any:
            return self(batch[0])

    trainer = make_trainer()
    trainer.fit(Module(), make_loader(2), make_loader(1))
    assert len(trainer.predict(dataloaders=make_loader(2))) == 2


# -- mistakes -------------------------------------------------------------------------------------


def with_hook(base: type, name: str, function: Any) -> Any:
    return type("Mine", (base,), {name: function})()


@pytest.mark.parametrize("base", ["callback", "module"])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("on_train_epochend", "on_train_epoch_end"), ("on_val_epoch_end", "on_validation_epoch_end")],
)  # fmt: skip
def test_a_misspelt_hook_is_an_error(
    base: str, wrong: str, right: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    kind = Callback if base == "callback" else regression
    mine = with_hook(kind, wrong, lambda self, *args: None)
    module, callbacks = (regression(), [mine]) if base == "callback" else (mine, [])
    with pytest.raises(MisconfigurationException, match=f"Mine.{wrong}.*Rename it to `{right}`"):
        make_trainer(callbacks=callbacks).fit(module, make_loader(1))


@pytest.mark.parametrize(("removed", "instead"), REMOVED_HOOKS.items())
def test_a_removed_hook_names_its_successor(
    removed: str, instead: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    kind = regression if hasattr(LightningModule, instead) else Callback
    mine = with_hook(kind, removed, lambda self, *args: None)
    module, callbacks = (mine, []) if kind is regression else (regression(), [mine])
    with pytest.raises(MisconfigurationException, match=f"Mine.{removed}.*`{instead}`"):
        make_trainer(callbacks=callbacks).fit(module, make_loader(1))


@pytest.mark.parametrize(
    ("base", "name", "function", "received"),
    [
        ("callback", "on_train_start", lambda self: None, r"\(trainer, pl_module\)"),
        ("callback", "on_train_batch_end", lambda self, trainer, pl_module, batch: None, "outputs, batch, batch_idx"),
        ("module", "on_train_epoch_end", lambda self, outputs: None, r"receives \(\)"),
        ("module", "on_train_batch_start", lambda self: None, r"\(batch, batch_idx\)"),
        ("module", "setup", lambda self: None, r"\(stage\)"),
        ("callback", "setup", lambda self, trainer, pl_module, *, stage: None, "by position"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_an_error_before_training(
    base: str, name: str, function: Any, received: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:  # fmt: skip
    mine = with_hook(Callback if base == "callback" else regression, name, function)
    module, callbacks = (regression(), [mine]) if base == "callback" else (mine, [])
    with pytest.raises(
        MisconfigurationException, match=rf"Mine.{name}.*cannot be called.*{received}"
    ):
        make_trainer(callbacks=callbacks).fit(module, make_loader(1))


OfAnotherFramework = type(
    "OfAnotherFramework", (), {"on_batch_end": print, "on_init_end": print, "__module__": "other"}
)


@pytest.mark.parametrize("base", ["callback", "module"])
def test_a_method_that_only_looks_like_a_hook_is_left_alone(
    base: str, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    kind = Callback if base == "callback" else regression

    class Mine(kind, OfAnotherFramework):
        def on_fit_start(self, *args: Any) -> None:
            self.on_test_ends()

        def on_step_end(self) -> None: ...

        on_batch = on_train_step_end = on_evaluate = on_validation_finished = on_step_end
        on_test_ends = on_step_end  # nearly a hook, and called above

        def on_train_epoch_end(self, *args: Any) -> None: ...

        on_epoch_end = on_train_epoch_end  # the same for older trainers

    module, callbacks = (regression(), [Mine()]) if base == "callback" else (Mine(), [])
    make_trainer(callbacks=callbacks).fit(module, make_loader(1))


def test_hooks_with_optional_or_any_arguments_are_accepted(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[str] = []

    class Mine(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
            seen.append(f"setup {stage}")

        def on_validation_batch_end(self, *args: Any) -> None:
            seen.append("batch end")

    make_trainer(callbacks=Mine()).fit(regression(), make_loader(1), make_loader(1))
    assert seen == ["setup fit", "batch end", "batch end"]


# -- the cost -------------------------------------------------------------------------------------


def ours(frame: FrameType | None) -> list[str]:
    """The functions of the package on the stack, from `Trainer.fit` inwards."""
    names: list[str] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    names.reverse()
    return names


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}]
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_at_most_four_calls_from_fit_to_the_work(
    precision: str, arguments: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    stacks: dict[str, list[str]] = {}

    def note(*_: Any) -> None:
        stacks["optimizer.step"] = ours(sys._getframe())

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            stacks["training_step"] = ours(sys._getframe())
            loss = self.loss(batch)
            loss.register_hook(lambda gradient: stacks.update(backward=ours(sys._getframe())))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            optimizer.register_step_pre_hook(note)
            return optimizer

    make_trainer(precision=precision, **arguments).fit(Module(), make_loader(2))
    assert set(stacks) == {"training_step", "backward", "optimizer.step"}
    for stack in stacks.values():
        assert stack[0] == "fit"
        assert len(stack) - 1 <= 4, stack


def calls_per_batch(fit: Callable[[int], object], batches: int = 40) -> float:
    """Python calls into the package per training batch: what twice the batches cost more."""

    def counted(number: int) -> int:
        count = 0

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal count
            count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

        sys.setprofile(profile)
        try:
            fit(number)
        finally:
            sys.setprofile(None)
        return count

    counted(1)  # lazy imports
    return (counted(2 * batches) - counted(batches)) / batches


class Bare(LightningModule):
    """As little as can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_misspelt_step_is_named(make_loader: Any, make_trainer: Any) -> None:
    class NoStep(LightningModule):
        def traning_step(self, batch: Any, batch_idx: int) -> None: ...

    class NoOptimizer(NoStep):
        def training_step(self, batch: Any, batch_idx: int) -> None: ...
        def configure_optimizer(self) -> None: ...

    for kind, name in ((NoStep, "traning_step"), (NoOptimizer, "configure_optimizer")):
        with pytest.raises(MisconfigurationException, match=f"It has a `{name}`: is that it"):
            make_trainer().fit(kind(), make_loader(1))


def test_calls_per_batch_bare(make_loader: Any, make_trainer: Any) -> None:
    def fit(batches: int) -> None:
        make_trainer(log_every_n_steps=50).fit(Bare(), make_loader(batches))

    assert calls_per_batch(fit) <= BARE_CALLS


def test_calls_per_batch_with_the_defaults(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    def fit(batches: int) -> None:
        trainer = make_trainer(
            logger=scaffold_runtime.loggers.CSVLogger(tmp_path),
            enable_checkpointing=True,
            enable_progress_bar=True,
            enable_model_summary=True,
            log_every_n_steps=50,
        )
        trainer.fit(regression(), make_loader(batches))

    assert calls_per_batch(fit) <= DEFAULT_CALLS


def test_an_unused_hook_costs_nothing(make_loader: Any, make_trainer: Any) -> None:
    class Rare(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pass

    def fit(callbacks: list[Callback]) -> Callable[[int], object]:
        return lambda n: make_trainer(callbacks=callbacks).fit(Bare(), make_loader(n))

    assert calls_per_batch(fit([Rare() for _ in range(5)])) == calls_per_batch(fit([]))


# Ratchets: lower them when the count falls; raise them only with a reason.
BARE_CALLS = 19  # two of them make the batch, in place of more of torch's
DEFAULT_CALLS = 27
