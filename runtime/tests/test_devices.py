"""What lies where, on a device that is not the CPU. torch's meta device stands in for a GPU: it computes shapes
and no numbers, so what would mix two devices on a GPU is looked at, and not run into.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor

from scaffold_runtime import Callback
from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.callbacks import BasePredictionWriter, ModelCheckpoint
from scaffold_runtime.compare import digest
from scaffold_runtime.data import move_data_to_device
from scaffold_runtime.entry import Entry
from scaffold_runtime.seed import rng_state, set_rng_state

META = torch.device("meta")


class Elsewhere(Accelerator):
    """A device that is not the CPU."""

    name = "meta"

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def auto_device_count() -> int:
        return 1

    def device(self, index: int) -> torch.device:
        return META


class Stop(Callback):
    """End training at a step, before numbers are needed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("far enough")


class Look(Callback):
    """The devices of what a resumed run goes on with."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        entries = trainer.metrics.scopes["train", True, 0].values()
        kept = [value for entry in entries for value in (entry.total, entry.last)]
        metric = [pl_module.mean.mean_value, pl_module.mean.weight]
        gradients = [parameter.grad for parameter in pl_module.parameters()]
        self.seen = {each.device for each in (*kept, *metric, *gradients) if each is not None}


@pytest.fixture
def main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no numbers can be brought there all the same."""
    zeros = torch.zeros
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: zeros(tensor.shape, dtype=tensor.dtype))


@pytest.fixture
def module(regression: Any) -> Any:
    class Module(regression):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torchmetrics.MeanMetric(nan_strategy="disable")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=True)
            self.mean.update(loss.detach())
            self.log("mean", self.mean, on_step=False, on_epoch=True)
            return loss

    return Module


def test_a_run_resumes_on_its_device(
    module: Any, make_loader: Any, make_trainer: Any, tmp_path: Any
) -> None:
    """In the middle of a window: sums, metrics and gradients come from the file, and are added to."""
    keep = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=2)
    with pytest.raises(KeyError):
        make_trainer(callbacks=[keep, Stop(3)], enable_checkpointing=True).fit(
            module(), make_loader(8)
        )
    look = Look()
    trainer = make_trainer(accelerator=Elsewhere(), callbacks=[look, Stop(3)])
    with pytest.raises(KeyError):
        trainer.fit(module(), make_loader(8), ckpt_path=tmp_path / "kept.ckpt")
    assert look.seen == {META}


@pytest.mark.parametrize("reduction", ["mean", "sum", "max"])
def test_values_of_a_step_may_change_their_device(reduction: str) -> None:
    """`torch.tensor(0.0)` where there was nothing to count, and what the device computed otherwise."""
    entry = Entry("positives", "", None, (False, True, False, True, reduction))
    entry.accumulate(torch.tensor(0.0), 4)
    entry.accumulate(torch.ones((), device=META), 4)
    entry.accumulate(torch.tensor(0.0), 4)
    assert isinstance(entry.total, Tensor) and entry.total.device == META


class Moving:
    """An output that says where it was moved to."""

    place = "where it was computed"

    def to(self, device: Any) -> Moving:
        moved = Moving()
        moved.place = str(device)
        return moved


def test_predictions_are_kept_in_main_memory(
    regression: Any, make_loader: Any, make_trainer: Any, main_memory: None
) -> None:
    """There is room for them; hooks see each batch where it was computed."""

    class Predicts(regression):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return {"moving": Moving()}

    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer: Any, module: Any, prediction: Any, *rest: Any) -> None:  # fmt: skip
            self.of_batch = prediction["moving"].place

        def write_on_epoch_end(self, trainer: Any, module: Any, predictions: Any, indices: Any) -> None:  # fmt: skip
            self.of_epoch = [each["moving"].place for each in predictions]

    writer = Writer("batch_and_epoch")
    trainer = make_trainer(accelerator=Elsewhere(), callbacks=writer)
    found = trainer.predict(Predicts(), make_loader(2))
    assert [each["moving"].place for each in found] == writer.of_epoch == ["cpu", "cpu"]
    assert writer.of_batch == Moving.place


def test_nothing_is_read_before_it_has_come_to_the_cpu() -> None:
    """A copy from a GPU that is not waited for holds anything at first."""
    asked: list[Any] = []

    class Asked(Tensor):
        def to(self, *arguments: Any, **options: Any) -> Any:
            asked.append(options.get("non_blocking", False))
            return super().to(*arguments, **options)

    for device in ("cpu", "mps:0", torch.device("meta")):
        with_options = torch.ones(1).as_subclass(Asked)
        try:
            move_data_to_device(with_options, device)
        except RuntimeError:
            assert device == "mps:0"  # there is none
    assert asked == [False, False, True]


def test_a_run_leaves_the_device_to_others(
    regression: Any, make_loader: Any, make_trainer: Any, main_memory: None
) -> None:
    """As in Lightning, and also after an error."""
    model = regression()
    with pytest.raises(KeyError):
        make_trainer(accelerator=Elsewhere(), callbacks=Stop(2)).fit(model, make_loader(4))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_what_optimizers_remember_goes_where_the_weights_are(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """They may outlive a run, which left the device. torch chooses where the number of steps is."""

    class Kept(regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters())
            for parameter in self.parameters():
                moments = {name: torch.zeros(parameter.shape) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.tensor(3.0), **moments}
            optimizer.state["of its own"] = 3
            return optimizer

        def on_fit_start(self) -> None:
            states = [state for state in self.optimizers().state.values() if state != 3]
            self.seen = {name: state[name].device.type for state in states for name in state}

    model = Kept()
    with pytest.raises(KeyError):
        make_trainer(accelerator=Elsewhere(), callbacks=Stop(1)).fit(model, make_loader(4))
    assert model.seen == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_random_numbers_are_those_of_the_device_of_this_process(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others on the machine may be no longer there, or belong to somebody else."""
    put: list[Any] = []
    of_device = torch.arange(16, dtype=torch.uint8)
    before = digest(rng_state())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(getattr(torch, kind), "get_rng_state", lambda: of_device)
    monkeypatch.setattr(getattr(torch, kind), "set_rng_state", put.append)
    state = rng_state()
    set_rng_state(state)
    assert state[kind] is of_device and put[0] is of_device
    assert digest(rng_state()) != before


def test_asking_for_gpus_leaves_forking_open() -> None:
    """torch asks the driver otherwise, after which no forked process may use a GPU."""
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
