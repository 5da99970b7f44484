"""`accumulate_grad_batches="auto"`: what runs out of memory is cut, and the gradients stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import Callback
from scaffold_runtime.errors import MisconfigurationException, StepError
from scaffold_runtime.loops.split import cut, join


class RunsOut(torch.autograd.Function):
    """Passes a tensor on; its backward runs out of memory if told to."""

    @staticmethod
    def forward(context: Any, x: Tensor, fails: bool) -> Tensor:
        context.fails = fails
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        if context.fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradient, None


@pytest.fixture
def limited(regression: Any) -> Any:
    """A module whose step takes at most `fits` samples, and counts its attempts."""

    class Limited(regression):
        fits, where = 10**6, "forward"

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.sizes: list[int] = []
            self.losses: list[Tensor] = []

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            self.sizes.append(len(x))
            too_many = len(x) > self.fits
            if too_many and self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return nn.functional.mse_loss(RunsOut.apply(self(x), too_many), y)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=False, on_epoch=True)
            self.log("most", loss, on_step=False, on_epoch=True, reduce_fx="max")
            return {"loss": loss, "inputs": batch[0]}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.losses.append(outputs["loss"])
            assert torch.equal(outputs["inputs"], batch[0])

    return Limited


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"gradient_clip_val": 0.05}, {"precision": "16-mixed", "gradient_clip_val": 0.05}],
    ids=["plain", "clipped", "16-mixed"],
)
def test_same_gradients(
    where: str, arguments: Any, limited: Any, make_loader: Any, make_trainer: Any
) -> None:
    whole, parts = limited(), limited()
    parts.load_state_dict(whole.state_dict())
    parts.fits, parts.where = 3, where
    before = weights(whole)
    trainers = [make_trainer(max_epochs=2, accumulate_grad_batches=n, **arguments) for n in (1, "auto")]  # fmt: skip

    trainers[0].fit(whole, make_loader(4, size=11))
    trainers[1].fit(parts, make_loader(4, size=11))

    loose = 1e-2 if "precision" in arguments else 1e-5
    moved = (weights(parts) - before).norm() / (weights(whole) - before).norm()
    assert moved == pytest.approx(1, rel=loose)
    assert torch.allclose(weights(parts), weights(whole), rtol=loose, atol=loose * 0.1)
    assert torch.allclose(torch.stack(parts.losses), torch.stack(whole.losses), rtol=loose)
    assert trainers[1].global_step == 8
    logged = [trainer.callback_metrics["loss"].item() for trainer in trainers]
    assert logged[1] == pytest.approx(logged[0], rel=loose)  # failed attempts do not count


def test_the_number_of_parts_is_remembered(limited: Any, make_loader: Any, make_trainer: Any) -> None:  # fmt: skip
    module = limited()
    module.fits = 3
    make_trainer(accumulate_grad_batches="auto").fit(module, make_loader(3, size=11))
    assert module.sizes == [11, 5, *[2, 3, 3, 3] * 3]


def test_a_resumed_run_cuts_at_once(
    limited: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    first, second = limited(), limited()
    first.fits = second.fits = 3
    trainer = make_trainer(accumulate_grad_batches="auto")
    trainer.fit(first, make_loader(3, size=8))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = make_trainer(accumulate_grad_batches="auto", max_epochs=2)
    again.fit(second, make_loader(3, size=8), ckpt_path=tmp_path / "one.ckpt")
    assert second.sizes == [2, 2, 2, 2] * 3


def test_what_fits_is_left_whole_and_bit_equal(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    one, two = regression(), regression()
    two.load_state_dict(one.state_dict())
    make_trainer(max_epochs=2).fit(one, make_loader())
    make_trainer(max_epochs=2, accumulate_grad_batches="auto").fit(two, make_loader())
    assert torch.equal(weights(one), weights(two))


def test_one_sample_too_many(limited: Any, make_loader: Any, make_trainer: Any) -> None:
    module = limited()
    module.fits = 0
    with pytest.raises(StepError, match="with one sample at a time"):
        make_trainer(accumulate_grad_batches="auto").fit(module, make_loader(1, size=4))
    assert module.sizes == [4, 2, 1]


def test_other_errors_pass(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    class Broken(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        make_trainer(accumulate_grad_batches="auto").fit(Broken(), make_loader())


def test_a_batch_that_cannot_be_cut(limited: Any, make_trainer: Any) -> None:
    class Uncut(limited):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch[:2])

    module = Uncut()
    module.fits = 2
    batch = [torch.randn(4, 4), torch.randn(4, 1), torch.randn(7, 2)]
    loader = DataLoader([0], collate_fn=lambda _: batch)
    with pytest.raises(StepError, match=r"a Tensor of shape \(7, 2\), where one row per sample"):
        make_trainer(accumulate_grad_batches="auto").fit(module, loader)


def test_a_closure_cannot_be_taken_again(regression: Any, make_loader: Any, make_trainer: Any) -> None:  # fmt: skip

    class Closure(regression):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(MisconfigurationException, match="the optimizer evaluates the loss"):
        make_trainer(accumulate_grad_batches="auto").fit(Closure(), make_loader())


@dataclass
class Sample:
    x: Tensor
    names: list[str]
    scale: float


def test_batches_of_every_form_are_cut() -> None:
    x = torch.arange(5)
    batch = {"x": x, "more": (x[:, None], Sample(x, list("abcde"), 0.5)), "temperature": torch.tensor(2.0)}  # fmt: skip
    (first, share), (second, _) = cut(batch, 2, 5)
    assert share == 0.4
    assert [len(part["x"]) for part in (first, second)] == [2, 3]
    assert first["more"][1].names == ["a", "b"] and second["more"][1].names == ["c", "d", "e"]
    assert second["more"][1].scale == 0.5 and second["temperature"] == 2
    assert torch.equal(torch.cat([first["more"][0], second["more"][0]]), x[:, None])


def test_outputs_are_joined() -> None:
    outputs = [{"loss": torch.tensor(1.0), "rows": torch.ones(1), "note": "a"},
               {"loss": torch.tensor(4.0), "rows": torch.ones(3), "note": "b"}]  # fmt: skip
    joined = join(outputs, [0.25, 0.75])
    assert joined["loss"] == 3.25 and len(joined["rows"]) == 4 and joined["note"] == "b"
    assert join([None, None], [0.5, 0.5]) is None


@pytest.mark.timeout(60)
def test_processes_agree(limited: Any, make_loader: Any, tmp_path: Path) -> None:
    """One process of two runs out of memory: both cut, and train as if none had."""
    from datetime import timedelta

    from scaffold_runtime import Trainer
    from scaffold_runtime.strategies import DDPStrategy

    class OnlyOne(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.fits = 3 if trainer.global_rank == 1 else 10**6

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            kept = {"weights": weights(pl_module), "sizes": pl_module.sizes}
            torch.save(kept, tmp_path / f"{trainer.global_rank}.pt")

    def trainer(accumulate: Any, *callbacks: Callback) -> Trainer:
        strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=20))
        return Trainer(
            accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=list(callbacks), accumulate_grad_batches=accumulate,
        )  # fmt: skip

    class Synced(limited):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mark", torch.zeros(3))  # DDP sends buffers before a forward

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().training_step(batch, batch_idx)
            self.log("step", outputs["loss"], sync_dist=True)
            return outputs

    whole, parts = Synced(), Synced()
    parts.load_state_dict(whole.state_dict())
    data = make_loader(4, size=8).dataset
    assert isinstance(data, TensorDataset)
    trainer(1).fit(whole, DataLoader(data, batch_size=8))
    trainer("auto", OnlyOne()).fit(parts, DataLoader(data, batch_size=8))
    kept = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert torch.equal(kept[0]["weights"], kept[1]["weights"])
    assert torch.allclose(kept[0]["weights"], weights(whole), rtol=1e-5, atol=1e-6)
    assert kept[0]["sizes"] == [8, 4, 4, *[2] * 16]
    assert kept[1]["sizes"] == [8, 4, *[2] * 16]
