"""A run on one GPU: what the CPU computes, nothing waited for, resumed exactly, out of memory and on."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from scaffold_runtime import Callback, seed_everything
from scaffold_runtime.accelerators import find_usable_cuda_devices
from scaffold_runtime.batches import made_here, make_batches
from scaffold_runtime.callbacks import (
    BackboneFinetuning,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.seed import isolate_rng
from scaffold_runtime.transfer import SideStream
from scaffold_runtime.tuner import Tuner

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().cpu().reshape(-1) for parameter in module.parameters()])


@pytest.fixture
def dropping(regression: Any) -> Any:
    """Draws random numbers on the device, keeps statistics there, and logs whole epochs."""
    torchmetrics = pytest.importorskip(
        "torchmetrics", reason="a metric of its own is on the device"
    )

    class Dropping(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))  # fmt: skip
            self.error = torchmetrics.MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            assert x.is_cuda and self.device.type == "cuda"
            predicted = self(x)
            self.error(predicted, y)
            loss = nn.functional.mse_loss(predicted, y)
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            self.log("error", self.error, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    return Dropping


@pytest.mark.parametrize("pinned", [False, True])
def test_the_gpu_computes_what_the_cpu_does(
    pinned: bool, regression: Any, make_loader: Any, make_trainer: Any, on_gpu: Any, recorder: Any
) -> None:
    """With a copy that nothing waited for, batches, logged numbers or both would be NaN."""
    here, there = regression(), regression()
    there.load_state_dict(here.state_dict())
    told = type(recorder)()
    make_trainer(max_epochs=2, logger=recorder).fit(here, make_loader(), make_loader(2))
    trainer = on_gpu(max_epochs=2, logger=told)
    trainer.fit(there, make_loader(pin_memory=pinned), make_loader(2, pin_memory=pinned))

    assert torch.allclose(weights(here), weights(there), rtol=1e-4, atol=1e-6)
    assert told.steps("loss") == recorder.steps("loss")
    assert told.values("loss") == pytest.approx(recorder.values("loss"), rel=1e-4)
    assert told.values("val_loss") == pytest.approx(recorder.values("val_loss"), rel=1e-4)
    assert there.device.type == "cpu"  # weights do not stay on the GPU after a run
    assert {p.device.type for p in trainer.predict(there, make_loader(2))} == {"cpu"}


def test_pinned_batches_are_taken_at_once(make_loader: Any) -> None:
    """As those that are not pinned; bit for bit what torch's own iterator gives."""
    loader = make_loader(3, pin_memory=True)
    assert made_here(loader)
    for ours, torchs in zip(make_batches(loader, loader.batch_sampler), loader, strict=True):
        assert all(part.is_pinned() for part in (*ours, *torchs))
        assert all(map(torch.equal, ours, torchs))


class NoWaiting(Callback):
    """From the fourth batch to the end of the epoch, waiting for the device is an error."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # fmt: skip
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 2 else "default")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert torch.cuda.get_sync_debug_mode() == 2
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_nothing_waits_for_the_device(
    precision: str, accumulate: int, dropping: Any, make_loader: Any, on_gpu: Any, tmp_path: Path
) -> None:
    watching = [
        EarlyStopping("loss"),
        LearningRateMonitor("step"),
        EMAWeightAveraging(),
        NoWaiting(),
    ]
    on_gpu(
        max_epochs=2,
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        logger=CSVLogger(tmp_path),
        callbacks=watching,
        enable_progress_bar=True,
        log_every_n_steps=5,
    ).fit(dropping(), make_loader(20, pin_memory=True))


class Encoding(list[Tensor]):
    """A batch that moves itself, as those of transformers do."""

    def to(self, device: Any, *, non_blocking: bool = False) -> Encoding:
        return Encoding(part.to(device, non_blocking=non_blocking) for part in self)

    def pin_memory(self) -> Encoding:
        return Encoding(part.pin_memory() for part in self)


def test_no_batch_that_moves_itself_waits(
    regression: Any, make_loader: Any, on_gpu: Any, recorder: Any
) -> None:
    loader = make_loader(20, pin_memory=True, collate_fn=lambda rows: Encoding(default_collate(rows)))  # fmt: skip
    on_gpu(callbacks=NoWaiting(), logger=recorder).fit(regression(), loader)
    assert len(recorder.values("loss")) == 20 and all(map(math.isfinite, recorder.values("loss")))


def test_a_step_that_reads_a_number_waits(regression: Any, make_loader: Any, on_gpu: Any) -> None:
    """The mode sees what it is here to see."""

    class Reading(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            loss.item()
            return loss

    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        on_gpu(callbacks=NoWaiting()).fit(Reading(), make_loader(20, pin_memory=True))


def test_memory_is_known_to_each_stream_that_uses_it(
    stand_in: Any, dropping: Any, make_loader: Any, on_gpu: Any
) -> None:
    before = stand_in.stand_in_unrecorded()
    on_gpu().fit(dropping(), make_loader(20, pin_memory=True), make_loader(2, pin_memory=True))
    assert stand_in.stand_in_unrecorded() == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_is_the_same_bit_for_bit(
    precision: str, dropping: Any, make_loader: Any, on_gpu: Any, tmp_path: Path
) -> None:
    def fit(stop: int = -1, **again: Any) -> tuple[Tensor, Any]:
        seed_everything(again.pop("seed", 3))
        module = dropping()
        saving = ModelCheckpoint(tmp_path, filename="mid", every_n_train_steps=9)
        trainer = on_gpu(
            max_epochs=3,
            max_steps=stop,
            precision=precision,
            enable_checkpointing=stop > 0,
            callbacks=[saving] if stop > 0 else [],
            accumulate_grad_batches=2,
            num_sanity_val_steps=0,
        )
        loaders = [make_loader(12, shuffle=True, pin_memory=True), make_loader(2)]
        trainer.fit(module, *loaders, **again)
        return weights(module), trainer.callback_metrics

    whole, metrics = fit()
    fit(stop=9)
    resumed, metrics_again = fit(ckpt_path=tmp_path / "mid.ckpt", seed=99)
    assert torch.equal(resumed, whole)
    assert {n: v.item() for n, v in metrics_again.items()} == {n: v.item() for n, v in metrics.items()}  # fmt: skip


class Wide(nn.Module):
    """Holds some megabytes for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.down = nn.Linear(4, 1 << 18), nn.Linear(1 << 18, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.lift(x)))


@pytest.fixture
def wide(regression: Any) -> Any:
    class Module(regression):
        def __init__(self) -> None:
            super().__init__(lr=1e-6)
            self.net = Wide()
            self.sizes: list[int] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.sizes.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    return Module


def test_a_batch_that_runs_out_of_memory_is_cut(
    wide: Any, make_loader: Any, make_trainer: Any, on_gpu: Any, with_memory: Any
) -> None:
    """`accumulate_grad_batches="auto"` where memory really ends: the weights are those of whole batches."""
    whole, parts = wide(), wide()
    parts.load_state_dict(whole.state_dict())
    make_trainer().fit(whole, make_loader(2, size=16))
    with_memory(48 << 20)
    trainer = on_gpu(accumulate_grad_batches="auto")
    trainer.fit(parts, make_loader(2, size=16))

    assert parts.sizes[0] == 16 and 1 <= parts.sizes[-1] < 16 and trainer.global_step == 2
    assert torch.allclose(weights(parts), weights(whole), rtol=1e-4, atol=1e-7)


def test_the_largest_batch_that_fits_is_found(
    wide: Any, make_loader: Any, on_gpu: Any, with_memory: Any
) -> None:
    class Sized(wide):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return make_loader(256 // self.batch_size, size=self.batch_size)

    with_memory(48 << 20)
    module = Sized()
    found = Tuner(on_gpu()).scale_batch_size(module, steps_per_trial=1)
    assert found == module.batch_size and 2 <= found < 64


def test_what_a_finder_puts_back_takes_no_memory_of_the_gpu(
    regression: Any, make_loader: Any, on_gpu: Any
) -> None:
    """Or the batches that it finds would leave that much of the GPU unused."""

    class Sized(regression):
        batch_size, copies = 2, 0

        def train_dataloader(self) -> Any:
            return make_loader(4, size=self.batch_size)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            shape = next(self.parameters()).shape
            tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
            alike = {t.data_ptr() for t in tensors if t.is_cuda and t.shape == shape}
            Sized.copies = Sized.copies or len(alike)  # in the first step: no gradients yet
            return super().training_step(batch, batch_idx)

    Tuner(on_gpu()).scale_batch_size(Sized(), steps_per_trial=1, max_trials=1)
    assert Sized.copies == 1


def test_seeds_reach_the_gpu(dropping: Any, make_loader: Any, on_gpu: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        seed_everything(seed)
        with isolate_rng():
            before = torch.cuda.get_rng_state()
            torch.rand(3, device="cuda")
        assert torch.equal(torch.cuda.get_rng_state(), before)
        module = dropping()
        on_gpu().fit(module, make_loader())
        found.append(weights(module))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_monitors_look_at_the_gpu(
    dropping: Any, make_loader: Any, on_gpu: Any, recorder: Any
) -> None:
    throughput = ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=3)
    on_gpu(logger=recorder, callbacks=[DeviceStatsMonitor(), throughput]).fit(dropping(), make_loader(8))  # fmt: skip
    names = {name for _, row in recorder.rows for name in row}
    assert any("allocated_bytes.all.peak" in name for name in names)
    assert "train/device/samples_per_sec" in names or "train/samples_per_sec" in names


@pytest.mark.parametrize(
    "callback",
    [
        lambda: StochasticWeightAveraging(1e-3, swa_epoch_start=1),
        lambda: EMAWeightAveraging(),
        lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=1),
    ],
    ids=["swa", "ema", "finetuning"],
)
def test_callbacks_that_hold_weights(callback: Any, dropping: Any, make_loader: Any, on_gpu: Any) -> None:  # fmt: skip

    class Finetuned(dropping):
        @property
        def backbone(self) -> nn.Module:
            return self.net[0]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), lr=0.01)

    module = Finetuned()
    before = weights(module)
    on_gpu(max_epochs=3, callbacks=callback()).fit(module, make_loader(), make_loader(2))
    after = weights(module)
    assert torch.isfinite(after).all() and not torch.equal(before[: len(after)], after)


def test_devices_are_chosen_and_refused(on_gpu: Any) -> None:
    count = torch.cuda.device_count()
    assert find_usable_cuda_devices(1) == [0]
    assert on_gpu(devices=[0]).strategy.root_device == torch.device("cuda", 0)
    assert on_gpu(devices="0,").strategy.root_device == torch.device("cuda", 0)
    with pytest.raises(MisconfigurationException, match=f"'cuda' has {count} device"):
        on_gpu(devices=count + 1)
    with pytest.raises(MisconfigurationException, match=f"of {count} here"):
        find_usable_cuda_devices(count + 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_run_is_on_its_own_gpu(regression: Any, make_loader: Any, on_gpu: Any) -> None:
    """Also one of a trainer whose processes have met, after another was on another GPU."""
    found: list[int] = []

    class Noting(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found.append(torch.cuda.current_device())
            return super().training_step(batch, batch_idx)

    second = on_gpu(devices=[1], strategy="ddp")
    try:
        for trainer in (second, on_gpu(devices=[0]), second):
            trainer.max_epochs = trainer.current_epoch + 1
            trainer.fit(Noting(), make_loader(1))
    finally:
        torch.distributed.destroy_process_group()
        torch.cuda.set_device(0)
    assert found == [1, 0, 1]


def test_a_copy_waits_for_nothing_and_is_waited_for() -> None:
    device = torch.device("cuda", 0)
    side, host = SideStream(device), torch.arange(1 << 22, dtype=torch.float32).pin_memory()
    side.move(host)
    torch.cuda.synchronize()  # from now on its memory is there, which would have to be waited for
    torch.cuda._sleep(10**9)  # half a second: the device is busy, the host is ahead
    computed = torch.cuda.Event()
    computed.record()
    moved = side.move(host)
    side._stream.synchronize()
    assert not computed.query()  # the copy is done while the computation is not
    assert torch.equal((moved + 1).cpu(), host + 1)
