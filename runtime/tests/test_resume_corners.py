"""Corners of resuming that random programs found: each is stopped, goes on, and ends as the unbroken run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from runtime.tests.conftest import Regression
from scaffold_runtime import Callback
from scaffold_runtime.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from scaffold_runtime.checkpoint.io import read_checkpoint, write_checkpoint
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.loggers import CSVLogger
from scaffold_runtime.utilities import CombinedLoader

pytestmark = pytest.mark.filterwarnings("ignore:.*was saved when training failed")


class Stop(Callback):
    """Ends training where a hook is called for the n-th time."""

    def __init__(self, hook: str, times: int) -> None:
        self.left = times
        setattr(self, hook, self.count)

    def count(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


class Corner(Regression):
    """In the format of its weights."""

    def loss(self, batch: Any) -> Tensor:
        return super().loss([part.to(self.net[0].weight.dtype) for part in batch])


Run = Callable[..., Any]


@pytest.fixture
def unbroken_and_resumed(make_trainer: Any) -> Run:
    """`(stop, module, *loaders, callbacks=, **trainer)`: what both runs end with."""

    def run(
        stop: Stop, module: Any, *loaders: Any, callbacks: Any = list, **arguments: Any
    ) -> list[tuple[Any, Any, str]]:
        def train(folder: str, *others: Callback, path: str | None = None) -> Any:
            torch.manual_seed(0)
            own = callbacks()
            if not any(isinstance(each, ModelCheckpoint) for each in own):
                own.append(ModelCheckpoint(every_n_train_steps=1))
            trainer = make_trainer(
                callbacks=[*others, *own],
                logger=CSVLogger(folder, name=""),
                enable_checkpointing=True,
                **{"max_epochs": 3, **arguments},
            )
            made = module()
            trainer.fit(made, *(loader() for loader in loaders), ckpt_path=path)
            return made, trainer, Path(trainer.log_dir, "metrics.csv").read_text()

        whole = train("whole")
        with pytest.raises(InterruptedError):
            train("parts", stop)
        return [whole, train("parts", path="last")]

    return run


def same(ended: list[Any]) -> bool:
    whole, resumed = (module.state_dict() for module, _, _ in ended)
    return all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "32-true"])
@pytest.mark.parametrize("averaged", [False, True])
def test_weights_come_back_in_their_own_format(
    precision: str, averaged: bool, unbroken_and_resumed: Run, make_loader: Any
) -> None:
    def callbacks() -> list[Callback]:
        return [EMAWeightAveraging(decay=0.9)] if averaged else []

    stop = Stop("on_train_batch_start", 8)
    assert same(
        unbroken_and_resumed(stop, Corner, make_loader, callbacks=callbacks, precision=precision)
    )


AVERAGES: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "epochs": lambda: EMAWeightAveraging(
        decay=0.5, update_every_n_steps=0, update_starting_at_epoch=0
    ),
    "swa": lambda: StochasticWeightAveraging(0.1, 1),
}


@pytest.mark.parametrize("average", AVERAGES)
def test_averages_where_only_the_end_was_left(
    average: str, unbroken_and_resumed: Run, make_loader: Any
) -> None:
    stop = Stop("on_train_end", 1)
    callbacks = lambda: [AVERAGES[average](), ModelCheckpoint()]  # noqa: E731
    assert same(unbroken_and_resumed(stop, Corner, make_loader, callbacks=callbacks))


def test_the_best_is_not_written_over(unbroken_and_resumed: Run, make_loader: Any) -> None:
    class Told(Regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", (0.1, 0.5, 0.4, 0.3)[self.current_epoch])

    def callbacks() -> list[Callback]:
        best = ModelCheckpoint(monitor="val", save_top_k=2, filename="best")
        return [best, ModelCheckpoint(every_n_train_steps=1)]

    stop = Stop("on_train_epoch_start", 3)
    ended = unbroken_and_resumed(
        stop, Told, make_loader, lambda: make_loader(1), callbacks=callbacks, max_epochs=4
    )
    kept = [
        {
            Path(path).name: score
            for path, score in trainer.checkpoint_callback.best_k_models.items()
        }
        for _, trainer, _ in ended
    ]
    assert kept[0] == kept[1] and sorted(kept[1]) == ["best-v1.ckpt", "best.ckpt"]
    best = Path(ended[1][1].checkpoint_callback.best_model_path)
    assert (best.name, read_checkpoint(best)["epoch"]) == ("best.ckpt", 1)


def test_checkpoints_of_weights_alone_are_passed_over(
    unbroken_and_resumed: Run, make_loader: Any
) -> None:
    def callbacks() -> list[Callback]:
        weights = ModelCheckpoint(filename="w-{epoch}", save_top_k=-1, save_weights_only=True)
        return [ModelCheckpoint(every_n_train_steps=1), weights]

    stop = Stop("on_train_epoch_start", 2)
    assert same(unbroken_and_resumed(stop, Corner, make_loader, callbacks=callbacks))


@pytest.mark.parametrize("torn", [("a",), ("a", "b"), ("a", "b", "c")])
def test_of_torn_checkpoints_the_newest(
    torn: tuple[str, ...], make_loader: Any, make_trainer: Any
) -> None:
    trainer = make_trainer(max_epochs=3)
    for epoch, name in enumerate(("a", "b", "c"), start=1):
        trainer.fit_loop.max_epochs = epoch
        trainer.fit(Regression(), make_loader())
        trainer.save_checkpoint(f"kept/{name}.ckpt", weights_only=name not in torn)
        if name in torn:
            path = Path("kept", f"{name}.ckpt")
            write_checkpoint({**read_checkpoint(path), "torn": True}, path)
    saves = ModelCheckpoint("kept")
    resumed = make_trainer(max_epochs=4, callbacks=saves, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="torn|not exact"):
        resumed.fit(Regression(), make_loader(), ckpt_path="last")
    assert Path(str(resumed.ckpt_path)).stem == torn[-1]


class Interrupted(ModelCheckpoint):
    """Is stopped before its first file is written."""

    stops = True

    def commit(self, trainer: Any, pl_module: Any) -> None:
        if self.stops and self._writing:
            raise InterruptedError
        super().commit(trainer, pl_module)


def test_a_link_to_a_link_outlives_it(
    make_loader: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(path: str | None = None) -> None:
        torch.manual_seed(0)
        best = {"monitor": "loss", "save_top_k": -1, "every_n_train_steps": 2}
        saves = [
            ModelCheckpoint("kept", save_last="link", every_n_train_steps=2),
            Interrupted("kept", "best-{step}", **best),
        ]
        trainer = make_trainer(callbacks=saves, enable_checkpointing=True, max_epochs=2)
        trainer.fit(Regression(), make_loader(), ckpt_path=path)

    with pytest.raises(InterruptedError):
        fit()
    monkeypatch.setattr(Interrupted, "stops", False)
    fit("last")
    names = [file.name for file in Path("kept").iterdir() if file.exists()]
    assert len(names) == len(list(Path("kept").iterdir())) and "best-step=2.ckpt" in names


@pytest.mark.parametrize("sanity", [0, 2])
def test_combined_validation_with_workers_leaves_random_numbers(
    sanity: int, unbroken_and_resumed: Run, make_loader: Any
) -> None:
    class Noisy(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch) + torch.rand(()) * self.net[2].bias.sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            for part in batch:
                self.log("val", self.loss(part))

    def combined() -> CombinedLoader:
        lively = {"num_workers": 1, "persistent_workers": True}
        return CombinedLoader([make_loader(2, **lively), make_loader(2, **lively)])

    stop = Stop("on_train_batch_start", 8)
    assert same(
        unbroken_and_resumed(stop, Noisy, make_loader, combined, num_sanity_val_steps=sanity)
    )


class Noise(IterableDataset[Any]):
    """Random samples, drawn in a worker."""

    def __iter__(self) -> Any:
        for _ in range(8):
            yield torch.randn(4), torch.ones(1)


def test_a_stream_to_validate_with_is_the_same_each_time(
    unbroken_and_resumed: Run, make_loader: Any
) -> None:
    def validation() -> DataLoader[Any]:
        return DataLoader(Noise(), 4, num_workers=1, persistent_workers=True)

    whole, resumed = unbroken_and_resumed(
        Stop("on_train_batch_start", 14), Regression, make_loader, validation
    )
    assert whole[2] == resumed[2]


def test_the_axis_of_values_that_come_late(unbroken_and_resumed: Run, make_loader: Any) -> None:
    class Late(Regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if batch_idx >= 2:
                self.log("v", float(batch_idx), on_step=True, on_epoch=False)

    whole, resumed = unbroken_and_resumed(
        Stop("on_train_batch_start", 14), Late, make_loader, lambda: make_loader(4)
    )
    assert whole[2] == resumed[2]


class Stateful:
    """Begins its next pass where the last one has ended, as torchdata's loader does."""

    def __init__(self) -> None:
        self.position = 0

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        while self.position < 2:
            self.position += 1
            yield [torch.full((4, 4), self.position / 4), torch.ones(4, 1)]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def test_a_part_that_has_ended_gives_no_more(unbroken_and_resumed: Run, make_loader: Any) -> None:
    class Parts(Regression):
        def loss(self, batch: Any) -> Tensor:
            return torch.stack([super(Parts, self).loss(p) for p in batch if p is not None]).sum()

    def combined() -> CombinedLoader:
        return CombinedLoader([Stateful(), make_loader()], "max_size")

    stop = Stop("on_train_batch_start", 5)
    assert same(unbroken_and_resumed(stop, Parts, combined, max_epochs=1))


@pytest.mark.parametrize("combined", [False, True])
def test_no_worker_outlives_a_validation_that_failed(
    combined: bool, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Fails(regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise InterruptedError

    loader = make_loader(4, num_workers=1)
    with pytest.raises(InterruptedError) as kept:  # which keeps what was under way
        make_trainer().fit(
            Fails(), make_loader(1), CombinedLoader([loader]) if combined else loader
        )
    assert kept.tb is not None and multiprocessing.active_children() == []


class ByHand(Corner):
    """Steps with the gradients of three batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        if (batch_idx + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss


@pytest.mark.parametrize("batches", [2, 5, 6])
def test_gradients_accumulated_by_hand_come_back(
    batches: int, make_trainer: Any, make_loader: Any
) -> None:
    """Five batches are an epoch, and the gradients of its last ones go into the next."""

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.progress.batches == batches:
                trainer.save_checkpoint("own.ckpt")

    def train(path: str | None = None) -> Any:
        torch.manual_seed(0)
        module = ByHand()
        trainer = make_trainer(max_epochs=3, callbacks=Save())
        trainer.fit(module, make_loader(5), ckpt_path=path)
        return module, trainer, ""

    assert same([train(), train("own.ckpt")])


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.ASGD])
def test_lone_numbers_of_an_optimizer_keep_their_format(
    kind: Any, unbroken_and_resumed: Run, make_loader: Any
) -> None:
    class Other(Corner):
        def configure_optimizers(self) -> Any:
            return kind(self.parameters(), lr=0.1)

    stop = Stop("on_train_batch_start", 8)
    assert same(unbroken_and_resumed(stop, Other, make_loader, precision="64-true"))


@pytest.mark.parametrize("async_save", [False, True])
def test_an_object_in_a_checkpoint_loses_nothing_else(
    regression: Any, make_loader: Any, make_trainer: Any, async_save: bool, tmp_path: Path
) -> None:
    """The run ends with an error that names it, and goes on from the file as if it had not."""

    class Holds(regression):  # type: ignore[misc] # a fixture gives the class
        kept: Any = 1

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = {"size": 2, "words": [self.kept, {self.kept: 1}]}

    def fit(module: Any, folder: str, **given: Any) -> None:
        keep = ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1, async_save=async_save)
        trainer = make_trainer(max_epochs=3, callbacks=keep, enable_checkpointing=True)
        trainer.fit(module, make_loader(3), **given)

    whole, stopped, again = Holds(), Holds(), Holds()
    stopped.load_state_dict(whole.state_dict())
    stopped.kept = object()
    file = tmp_path / "stopped" / "epoch=0.ckpt"

    fit(whole, "whole")
    with pytest.raises(CheckpointError, match=r"`mine\.words\[0\]` is a builtins\.object.*epoch=0"):
        fit(stopped, "stopped")
    assert read_checkpoint(file)["mine"] == {"size": 2, "words": [None, None]}
    fit(again, "stopped", ckpt_path=file)
    assert torch.equal(again.net[0].weight, whole.net[0].weight)


def test_a_loader_made_anew_goes_on_with_the_generator_it_had(
    unbroken_and_resumed: Run, make_loader: Any
) -> None:
    class Anew(Corner):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(5)

        def train_dataloader(self) -> Any:
            return make_loader(5, shuffle=True, generator=self.generator)

    stop = Stop("on_train_epoch_start", 3)
    every = {"reload_dataloaders_every_n_epochs": 1, "callbacks": lambda: [ModelCheckpoint()]}
    assert same(unbroken_and_resumed(stop, Anew, **every))


@pytest.mark.parametrize("begins", [None, torch.zeros(0)])
@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_that_training_fills_is_there_when_it_goes_on(
    begins: Any, persistent: bool, unbroken_and_resumed: Run, make_loader: Any
) -> None:
    class Filled(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queue", begins, persistent=persistent)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            own = loss.detach().reshape(1)
            self.queue = own if self.queue is None else torch.cat([self.queue, own])
            return loss * (1 + self.queue.mean())

    ended = unbroken_and_resumed(Stop("on_train_batch_start", 6), Filled, lambda: make_loader(4))
    assert same(ended)
    assert torch.equal(*(module.queue for module, _, _ in ended))


def test_an_average_has_the_buffers_that_training_fills(
    unbroken_and_resumed: Run, make_loader: Any
) -> None:
    class Filled(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("center", None)
            self.register_buffer("scale", torch.ones(1))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.center = (
                loss.detach() if self.center is None else (self.center + loss.detach()) / 2
            )
            return loss * (self.scale + self.center)

    stop = Stop("on_train_batch_end", 6)
    loaders = (lambda: make_loader(4), lambda: make_loader(2))
    ended = unbroken_and_resumed(
        stop, Filled, *loaders, callbacks=lambda: [EMAWeightAveraging(decay=0.9)]
    )
    assert same(ended)


@pytest.mark.parametrize("plateau", [True, False])
def test_what_validation_logged_counts_no_more_without_it(
    plateau: bool, make_trainer: Any, make_loader: Any, tmp_path: Path
) -> None:
    class Watching(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            monitored = {"scheduler": scheduler, "monitor": "val_loss"}
            return {"optimizer": optimizer, **({"lr_scheduler": monitored} if plateau else {})}

    callbacks = [] if plateau else [EarlyStopping("val_loss")]
    for epochs in (1, 2):  # also of a life before the last
        trainer = make_trainer(max_epochs=epochs, callbacks=callbacks)
        path = tmp_path / f"{epochs - 1}.ckpt" if epochs > 1 else None
        trainer.fit(Watching(), make_loader(2), make_loader(2), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    with pytest.raises(MisconfigurationException, match="monitors 'val_loss', which is not logged"):
        make_trainer(max_epochs=3, callbacks=callbacks).fit(
            Watching(), make_loader(2), ckpt_path=tmp_path / "2.ckpt"
        )


def test_a_buffer_that_is_not_persistent_may_have_another_size(
    make_trainer: Any, make_loader: Any, tmp_path: Path
) -> None:
    class Buffered(Regression):
        def __init__(self, size: int) -> None:
            super().__init__()
            for name, numbers in (("same", torch.zeros(2)), ("other", torch.arange(size))):
                self.register_buffer(name, numbers, persistent=False)

        def on_train_end(self) -> None:
            self.same += 1

    trainer = make_trainer()
    trainer.fit(Buffered(3), make_loader(2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    longer = Buffered(5)
    with pytest.warns(UserWarning, match="buffer `other` has 5 elements, and had 3"):
        make_trainer(max_epochs=2).fit(longer, make_loader(2), ckpt_path=tmp_path / "a.ckpt")
    assert (longer.same.tolist(), longer.other.tolist()) == ([2, 2], [0, 1, 2, 3, 4])
