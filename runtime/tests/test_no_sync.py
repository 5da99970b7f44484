"""Nothing waits for the device between two log points.

On a GPU, reading a number from a tensor (`.item()`, `float(tensor)`, `if tensor:`) waits until the
device has caught up. All of these go through the operator `_local_scalar_dense`, on the CPU as well,
so a run that never calls it does not wait.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from scaffold_runtime.loggers import CSVLogger


class NoReading(TorchDispatchMode):
    """Count reads of a tensor's number, and refuse them while `refuses`."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.refuses = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
            if self.refuses:
                raise AssertionError("the device was waited for")
        return func(*args, **(kwargs or {}))


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
            for reduction in ("mean", "sum", "min", "max"):
                self.log(reduction, loss, on_step=True, on_epoch=True, reduce_fx=reduction)
            return {"loss": loss, "other": loss * 2}

    return Module()


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_no_read_between_log_points(
    precision: str, accumulate: int, module: Any, make_loader: Any, make_trainer: Any, tmp_path: Any
) -> None:
    mode = NoReading()

    class Window(Callback):
        """Refuse reads from the first batch to the log point."""

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # fmt: skip
            mode.refuses = trainer.global_step < 19

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            mode.refuses = False

    mode.refuses = False
    trainer = make_trainer(
        logger=CSVLogger(tmp_path),
        callbacks=[Chatty(), Window(), LearningRateMonitor(), ModelCheckpoint(), EarlyStopping("mean")],
        enable_checkpointing=True,
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5,
        log_every_n_steps=20,
    )  # fmt: skip
    with mode:
        trainer.fit(module, make_loader(20 * accumulate))
    assert trainer.global_step == 20
    assert mode.reads > 0  # the mode sees reads, so refusing them meant something


def test_the_guard_guards() -> None:
    with NoReading(), pytest.raises(AssertionError, match="waited"):
        torch.ones(1).item()
