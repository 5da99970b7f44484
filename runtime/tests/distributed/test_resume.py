"""Two processes stop anywhere and resume exactly; other numbers of processes take over what they can."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from scaffold_runtime import Callback, Trainer, seed_everything

from .conftest import note, notes
from .test_numbers import weights


class Note(Callback):
    """Note every loss and, at the end, what a run may not lose."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.losses = folder, name, []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())

    def on_train_end(self, trainer: Any, module: Any) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        own = [local(tensor) for tensor in (*module.parameters(), *module.buffers())]
        note(self.folder, self.name, [self.losses, torch.rand(2), torch.cat(own), metrics])


def local(tensor: Tensor) -> Tensor:
    """What this process has of it, as one row of numbers."""
    own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.detach().reshape(-1).double()


@pytest.fixture
def noisy(regression: Any) -> Any:
    class Noisy(regression):  # type: ignore[misc] # a fixture gives the class
        """Random numbers in each step, others in each process."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def on_fit_start(self) -> None:
            if not self.trainer.ckpt_path:
                torch.manual_seed(self.global_rank)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.norm(x) + 0.1 * torch.randn_like(x))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    return Noisy


def data(make_loader: Any) -> DataLoader[Any]:
    return DataLoader(make_loader(12).dataset, batch_size=4, shuffle=True)


# Resumed between batch and epoch end.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_stop_anywhere_and_resume_exactly(
    noisy: Any,
    make_loader: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    step: int,
    accumulate: int,
    strategy: str,
) -> None:
    from scaffold_runtime.callbacks import ModelCheckpoint

    def trainer(name: str, **arguments: Any) -> Trainer:
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        made: Trainer = request.getfixturevalue(strategy)(
            max_epochs=3,
            accumulate_grad_batches=accumulate,
            enable_checkpointing=True,
            options={"state_dict_type": "sharded"} if strategy == "fsdp" else {},
            callbacks=[Note(tmp_path, name), keep],
            **arguments,
        )
        return made

    model = noisy()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    validation = make_loader(3 if strategy == "ddp" else 4)
    trainer("whole").fit(model, data(make_loader), validation)
    model.load_state_dict(first)
    step = step // accumulate or 1
    trainer("rest").fit(
        model, data(make_loader), validation, ckpt_path=tmp_path / f"step={step}.ckpt"
    )

    for whole, rest in zip(notes(tmp_path, "whole"), notes(tmp_path, "rest"), strict=True):
        assert rest[0] == whole[0][len(whole[0]) - len(rest[0]) :]
        assert len(rest[0]) < len(whole[0])
        assert torch.equal(rest[1], whole[1])
        assert torch.equal(rest[2], whole[2])
        assert rest[3] == whole[3]
    assert notes(tmp_path, "rest")[0][0] != notes(tmp_path, "rest")[1][0]  # ranks do differ


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_order_of_the_data_is_that_of_the_run_whatever_seed_a_script_sets(
    strategy: str, regression: Any, make_loader: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from scaffold_runtime.callbacks import ModelCheckpoint

    def fit(name: str, seed: int, stop: int = -1, **again: Any) -> None:
        seed_everything(seed)
        module = regression()
        torch.nn.init.constant_(module.net[0].weight, 0.5)
        keep = ModelCheckpoint(tmp_path, "middle", every_n_train_steps=2) if stop > 0 else None
        trainer = request.getfixturevalue(strategy)(
            max_steps=stop,
            max_epochs=2,
            callbacks=[Note(tmp_path, name), *([keep] if keep else [])],
            enable_checkpointing=keep is not None,
        )
        trainer.fit(module, data(make_loader), **again)

    fit("whole", seed=1)
    fit("stopped", seed=1, stop=2)
    fit("again", seed=2, ckpt_path=tmp_path / "middle.ckpt")
    for whole, again in zip(notes(tmp_path, "whole"), notes(tmp_path, "again"), strict=True):
        assert again[0] == whole[0][2:]
        assert torch.equal(again[2], whole[2])


def test_each_process_goes_on_with_its_own_averages(
    noisy: Any, make_loader: Any, ddp: Any, tmp_path: Path
) -> None:
    """Of running statistics that are not shared."""
    from scaffold_runtime.callbacks import EMAWeightAveraging, ModelCheckpoint

    def train(name: str, path: Path | None = None) -> None:
        torch.manual_seed(0)
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.5), Note(tmp_path, name), keep]
        newer = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        options = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
        trainer = ddp(options=options, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
        trainer.fit(noisy(), data(make_loader), make_loader(3), ckpt_path=path)

    train("whole")
    train("rest", tmp_path / "step=2.ckpt")
    for whole, rest in zip(notes(tmp_path, "whole"), notes(tmp_path, "rest"), strict=True):
        assert torch.equal(rest[2], whole[2])
        assert rest[3] == whole[3]


@pytest.mark.filterwarnings("ignore:the checkpoint was saved in the middle of an epoch")
@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_goes_on(
    noisy: Any, make_loader: Any, make_trainer: Any, ddp: Any, tmp_path: Path, processes: int
) -> None:
    path = tmp_path / "two.ckpt"

    class Counting(noisy):  # type: ignore[misc] # a fixture gives the class
        def __init__(self) -> None:
            super().__init__()
            self.seen = torchmetrics.SumMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.update(float(len(batch[0])))
            self.log("seen", self.seen, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    class Write(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == 8:
                trainer.save_checkpoint(path)

    ddp(max_epochs=2, callbacks=Write()).fit(Counting(), data(make_loader))
    saved = torch.load(path, weights_only=True)

    class Look(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            state = trainer.optimizers[0].state_dict()["state"][0]["exp_avg"]
            place = (trainer.current_epoch, trainer.global_step)
            note_in = [weights(module), state, torch.tensor(place)]
            torch.save(note_in, tmp_path / f"look-{trainer.global_rank}.pt")

    arguments = {"max_epochs": 2, "callbacks": Look()}
    trainer = make_trainer(**arguments) if processes == 1 else ddp(processes, **arguments)
    model = Counting()
    trainer.fit(model, data(make_loader), ckpt_path=path)

    assert trainer.callback_metrics["seen"] == 48  # of the epoch that began anew
    for rank in range(processes):
        loaded, state, place = torch.load(tmp_path / f"look-{rank}.pt")
        named = [saved["state_dict"][name].reshape(-1) for name, _ in model.named_parameters()]
        assert torch.equal(loaded, torch.cat(named))
        assert torch.equal(state, saved["optimizer_states"][0]["state"][0]["exp_avg"])
        assert place.tolist() == [1, 8]
    assert not [name for name in saved["state_dict"] if name.startswith("module.")]
