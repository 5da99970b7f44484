"""Nothing waits for the device between two log points.

On a GPU, reading a number from a tensor (`.item()`, `float(tensor)`, `if tensor:`) waits until the
device has caught up. All of these go through the operator `_local_scalar_dense`, on the CPU as well, or through
a copy to the host, so a run that calls neither does not wait.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from scaffold_runtime.loggers import CSVLogger

ALLOWED = "to_host.py"  # where numbers travel by themselves: on a GPU pinned, not blocking, looked at on arrival
COPIES = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.nonzero, Tensor.__array__)


class NoReading(TorchDispatchMode):
    """Count reads of a tensor's number, and refuse them while `refuses`."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.refuses = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
            if self.refuses and not allowed():
                raise AssertionError("the device was waited for")
        return func(*args, **(kwargs or {}))


class NoCopying(TorchFunctionMode):
    """The same for copies to the host, which on the CPU are no operator at all."""

    def __init__(self, reading: NoReading) -> None:
        super().__init__()
        self.reading = reading

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = [word for word in (*args, *(kwargs or {}).values()) if isinstance(word, str)]
        to_host = func is Tensor.to and "cpu" in words  # a device stands for the run's own
        if self.reading.refuses and (func in COPIES or to_host) and not allowed():
            raise AssertionError(f"the device was waited for: {func.__name__}")
        return func(*args, **(kwargs or {}))


def allowed() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.endswith(ALLOWED):
            return True
        frame = frame.f_back
    return False


class Chatty(Callback):
    """Looks at everything there is to look at, without reading a number."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert outputs["loss"].ndim == 0
        assert trainer.callback_metrics["loss"].ndim == 0


@pytest.fixture
def module(regression: Any) -> Any:
    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, prog_bar=False)
            self.log("bar", loss, prog_bar=True)
            for reduction in ("mean", "sum", "min", "max"):
                self.log(reduction, loss, on_step=True, on_epoch=True, reduce_fx=reduction)
            return {"loss": loss, "other": loss * 2}

    return Module()


class Window(Callback):
    """Refuse reads from the first batch to the log point, and ask to stop half-way, when it is too early."""

    def __init__(self, mode: NoReading, until: int) -> None:
        self.mode, self.until = mode, until

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # fmt: skip
        self.mode.refuses = trainer.global_step < self.until - 1
        trainer.should_stop = trainer.global_step == 10

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.mode.refuses = False


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
def test_no_read_between_log_points(
    precision: str, accumulate: int, module: Any, make_loader: Any, make_trainer: Any, tmp_path: Any
) -> None:
    mode = NoReading()
    # A fused optimizer skips steps on the device by itself; others make torch's scaler look.
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.01, fused=True)
    trainer = make_trainer(
        logger=CSVLogger(tmp_path),
        callbacks=[Chatty(), Window(mode, 20), LearningRateMonitor(), ModelCheckpoint(), EarlyStopping("mean"),
                   EMAWeightAveraging()],
        enable_checkpointing=True,
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5,
        log_every_n_steps=20,
        min_steps=20,
    )  # fmt: skip
    with mode, NoCopying(mode):
        trainer.fit(module, make_loader(20 * accumulate))
    assert trainer.global_step == 20
    assert mode.reads > 0  # the mode sees reads, so refusing them meant something


def test_the_progress_bar_shows_what_has_arrived(
    module: Any, make_loader: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar draws every step here, values and all, and reads nothing itself."""
    from scaffold_runtime.callbacks import RichProgressBar

    shown: list[dict[str, float]] = []

    class Bar(RichProgressBar):
        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            shown.append(super().get_metrics(trainer, pl_module))
            return shown[-1]

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *rest)
            self.get_metrics(trainer, pl_module)

    mode = NoReading()
    callbacks = [Bar(), Chatty(), Window(mode, 20)]
    trainer = make_trainer(
        callbacks=callbacks, enable_progress_bar=True, log_every_n_steps=20, min_steps=20
    )
    with mode, NoCopying(mode):
        trainer.fit(module, make_loader(20))
    assert len(shown) >= 20 and "bar" in shown[-1]


def test_two_processes_do_not_read_either(
    module: Any, make_loader: Any, make_trainer: Any, tmp_path: Any
) -> None:
    """Each agrees with the other on stopping, and both train without reading a tensor."""
    from datetime import timedelta

    from scaffold_runtime.strategies import DDPStrategy

    class Guard(Window):
        """A mode of each process' own."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.mode.__enter__()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.mode.__exit__(None, None, None)
            (tmp_path / f"{trainer.global_rank}").write_text(str(trainer.global_step))

    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=20))
    trainer = make_trainer(
        devices=2, strategy=strategy, callbacks=[Chatty(), Guard(NoReading(), 20)],
        log_every_n_steps=20, min_steps=20, gradient_clip_val=0.5,
    )  # fmt: skip
    trainer.fit(module, make_loader(40))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["20", "20"]


def test_the_guard_guards() -> None:
    mode = NoReading()
    mode.refuses = True
    for read in (Tensor.item, Tensor.cpu, Tensor.tolist, lambda t: t.to("cpu"), bool, float):
        with mode, NoCopying(mode), pytest.raises(AssertionError, match="waited"):
            read(torch.ones(1))
