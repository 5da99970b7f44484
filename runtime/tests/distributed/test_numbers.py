"""Right numbers from two processes: gradients, shares of the data, metrics, predictions, collectives."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

from scaffold_runtime import Callback, LightningDataModule, LightningModule
from scaffold_runtime.callbacks import BaseFinetuning, EMAWeightAveraging
from scaffold_runtime.errors import RankFailed
from scaffold_runtime.strategies import DDPStrategy
from scaffold_runtime.strategies.environments import Place
from scaffold_runtime.strategies.launch import run_in_processes

from .conftest import SECONDS, note, notes


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def numbered(count: int, size: int, **options: Any) -> DataLoader[Any]:
    """Samples that are their own number."""
    return DataLoader(TensorDataset(torch.arange(count)), batch_size=size, **options)


class Seen(LightningModule):
    """Keeps the numbers it was given; the mean of them is its metric."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.seen = folder, []
        self.weight = nn.Parameter(torch.ones(()))

    def step(self, batch: Any) -> Tensor:
        self.seen.append(batch[0].tolist())
        return self.weight * batch[0].float().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("train", loss, on_step=True, on_epoch=True)
        self.log("together", loss.detach(), sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", self.step(batch))
        self.log("most", batch[0].max().float(), reduce_fx="max")
        self.log("count", float(len(batch[0])), reduce_fx="sum")

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return batch[0] * 10

    def teardown(self, stage: str) -> None:
        note(self.folder, stage, self.seen)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def plain_loop(module: Any, dataset: Any, epochs: int, accumulate: int = 1, **options: Any) -> Any:
    """Two-rank DDP as one writes it by hand."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: Any) -> Tensor:
            return module.loss(batch)

    model = DistributedDataParallel(Loss(), **options)
    optimizer = torch.optim.SGD(module.parameters(), lr=module.lr)
    sampler = DistributedSampler(dataset, shuffle=True, seed=0)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for index, batch in enumerate(loader):
            if index % accumulate == 0:
                optimizer.zero_grad()
            if (index + 1) % accumulate:
                with model.no_sync():
                    (model(batch) / accumulate).backward()
            else:
                (model(batch) / accumulate).backward()
                optimizer.step()
    return weights(module)


@pytest.mark.parametrize(
    ("accumulate", "options"),
    [
        (1, {}),
        (2, {}),
        (1, {"static_graph": True}),
        (1, {"gradient_as_bucket_view": True}),
        (1, {"find_unused_parameters": True}),
    ],
)
def test_bit_equal_to_a_plain_loop(
    regression: Any,
    make_loader: Any,
    ddp: Any,
    together: Any,
    accumulate: int,
    options: dict[str, Any],
) -> None:
    model, by_hand = regression(), regression()
    by_hand.load_state_dict(model.state_dict())
    data = make_loader(8).dataset

    ddp(max_epochs=2, accumulate_grad_batches=accumulate, options=options).fit(
        model, DataLoader(data, batch_size=4, shuffle=True)
    )

    expected = together(lambda: plain_loop(by_hand, data, 2, accumulate, **options))
    assert torch.equal(weights(model), expected)
    assert not torch.equal(weights(model), weights(by_hand))  # it did train


def test_equal_to_one_process_with_the_joint_batch(
    regression: Any, make_loader: Any, make_trainer: Any, ddp: Any
) -> None:
    two, one = regression(), regression()
    one.load_state_dict(two.state_dict())
    data = make_loader(8).dataset
    # Ranks take 0, 2, 4, 6 and 1, 3, 5, 7 of each eight.
    joint = torch.arange(32).view(-1, 8).tolist()

    ddp(max_epochs=3).fit(two, DataLoader(data, batch_size=4))
    make_trainer(max_epochs=3).fit(one, DataLoader(data, batch_sampler=joint))

    assert torch.allclose(weights(two), weights(one), rtol=1e-5, atol=1e-7)


def test_a_hook_changes_how_gradients_travel(regression: Any, make_loader: Any, ddp: Any) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    exact, compressed = regression(), regression()
    compressed.load_state_dict(exact.state_dict())
    ddp(max_epochs=2).fit(exact, make_loader(8))
    ddp(max_epochs=2, options={"ddp_comm_hook": fp16_compress_hook}).fit(compressed, make_loader(8))

    assert not torch.equal(weights(exact), weights(compressed))
    assert torch.allclose(weights(exact), weights(compressed), atol=1e-2)


def test_training_samples_are_shuffled_and_divided(ddp: Any, tmp_path: Path) -> None:
    ddp(max_epochs=2).fit(Seen(tmp_path), numbered(12, 3, shuffle=True))

    first, second = notes(tmp_path, "fit")
    epochs = [[*chain(*first[:2], *second[:2])], [*chain(*first[2:], *second[2:])]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("count", [1, 10, 13])
def test_evaluation_counts_each_sample_once(ddp: Any, tmp_path: Path, count: int) -> None:
    """Batches are those one process sees, so metrics are equal too, also where a process has none."""
    (results,) = ddp().test(Seen(tmp_path), numbered(count, 2), verbose=False)

    first, second = notes(tmp_path, "test")
    assert first == [[i, i + 1][: count - i] for i in range(0, count, 4)]
    assert sorted(chain(*first, *second)) == list(range(count))
    assert results["mean"] == pytest.approx((count - 1) / 2)
    assert (results["most"], results["count"]) == (count - 1, count)


def test_shuffled_evaluation_data_is_taken_in_order(ddp: Any, tmp_path: Path) -> None:
    ddp().test(Seen(tmp_path), numbered(8, 2, shuffle=True), verbose=False)

    assert notes(tmp_path, "test") == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_monitors_see_the_same_on_all(ddp: Any, tmp_path: Path) -> None:
    """Epoch values are means over all samples, on every process, also where one had no batch."""

    class Look(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            note(tmp_path, "values", trainer.callback_metrics)

    trainer = ddp(callbacks=Look())
    trainer.fit(Seen(tmp_path), numbered(8, 2), numbered(2, 2))

    first, second = notes(tmp_path, "values")
    for name in ("mean", "most", "count"):
        assert first[name] == second[name] == {"mean": 0.5, "most": 1.0, "count": 2.0}[name]
    assert trainer.callback_metrics["train_epoch"] == 3.5


def test_sync_dist_reduces_each_step(ddp: Any, tmp_path: Path, recorder: Any) -> None:
    class Rows(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            note(tmp_path, "rows", [(r["train_step"], r["together"]) for r in got(trainer)])

    def got(trainer: Any) -> Any:
        rows = getattr(trainer.logger, "rows", [])
        return [row for _, row in rows if "together" in row]

    ddp(logger=recorder, callbacks=Rows()).fit(Seen(tmp_path), numbered(8, 2))

    # Rank 0 has 0, 2 then 4, 6; both together 0..3 and 4..7.
    assert notes(tmp_path, "rows") == [[(1.0, 1.5), (5.0, 5.5)], []]


def test_predictions_are_whole_and_in_order(ddp: Any, make_trainer: Any, tmp_path: Path) -> None:
    class Quiet(Seen):
        def teardown(self, stage: str) -> None:
            pass

    model = Quiet(tmp_path)
    for loaders in (numbered(11, 2), [numbered(11, 2), numbered(3, 1)]):
        expected = make_trainer().predict(model, loaders)
        predicted = ddp().predict(model, loaders)

        assert str(predicted) == str(expected)


@pytest.mark.parametrize("limit", [1.0, 4, 10])
@pytest.mark.parametrize("lengths", [(3, 5), (5, 3), (4, 0)])
def test_streams_of_different_length_end_together(
    ddp: Any, tmp_path: Path, lengths: tuple[int, int], limit: Any
) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            rank = torch.distributed.get_rank()
            return iter([(torch.tensor([i]),) for i in range(lengths[rank])])

    nothing = pytest.raises(RankFailed, match="the training loader gave no batch")
    with nullcontext() if min(lengths) else nothing:
        ddp(limit_train_batches=limit).fit(Seen(tmp_path), DataLoader(Stream(), batch_size=None))
    if min(lengths):
        assert {len(seen) for seen in notes(tmp_path, "fit")} == {min(lengths)}


@pytest.mark.filterwarnings("ignore:processes have .* each epoch ends after 2")
def test_loaders_of_different_length_end_together(ddp: Any, tmp_path: Path) -> None:
    class Uneven(LightningDataModule):
        def train_dataloader(self) -> Any:
            return numbered(4 + 4 * self.trainer.global_rank, 2)

    trainer = ddp(use_distributed_sampler=False, max_epochs=2)
    trainer.fit(Seen(tmp_path), datamodule=Uneven())

    assert [len(seen) for seen in notes(tmp_path, "fit")] == [4, 4]


class EndsUnevenly(Seen):
    """Logs in the hooks of an epoch: its rank, and perhaps a Metric in one process only."""

    alone = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metric = MeanMetric()

    def on_validation_epoch_start(self) -> None:
        if self.alone and self.global_rank == 0:
            self.metric.update(torch.tensor(1.0))
            self.log("alone", self.metric)

    def on_validation_epoch_end(self) -> None:
        self.log("rank", float(self.global_rank))
        if not self.alone:
            note(self.folder, "seen", float(self.trainer.callback_metrics["mean"]))


def test_values_of_epoch_hooks_count_once_for_each_process(ddp: Any, tmp_path: Path) -> None:
    trainer = ddp()
    (values,) = trainer.validate(EndsUnevenly(tmp_path), numbered(6, 2), verbose=False)

    assert values["rank"] == 0.5  # though the last batches have different sizes
    assert notes(tmp_path, "seen") == [values["mean"]] * 2 == [2.5] * 2


def test_a_metric_of_one_process_is_an_error_and_no_hang(ddp: Any, tmp_path: Path) -> None:
    module = EndsUnevenly(tmp_path)
    module.alone = True
    with pytest.raises(RankFailed, match="by 1 of 2 processes only"):
        ddp().validate(module, numbered(6, 2))


class Shown(Seen):
    """Logs a Metric, of which the progress bar of the first process alone asks the value."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metric = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.metric.update(batch[0].float())
        self.log("metric", self.metric, on_step=False, on_epoch=True, prog_bar=True)
        return self.step(batch)


def test_a_bar_that_shows_a_metric_waits_for_nobody(ddp: Any, tmp_path: Path) -> None:
    trainer = ddp(enable_progress_bar=True, max_epochs=2)
    trainer.fit(Shown(tmp_path), numbered(8, 2))

    assert trainer.callback_metrics["metric"] == 3.5


def test_manual_optimization_averages_gradients(
    regression: Any, make_loader: Any, ddp: Any
) -> None:
    """Two backwards in a step, which DDP's own reducer could not follow."""

    class Manual(regression):  # type: ignore[misc] # a fixture gives the class
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            for part in zip(*(tensor.chunk(2) for tensor in batch), strict=True):
                self.manual_backward(self.loss(part) / 2)
            optimizer.step()

    manual, automatic = Manual(), regression()
    automatic.load_state_dict(manual.state_dict())
    ddp(max_epochs=2).fit(manual, make_loader(8))
    ddp(max_epochs=2).fit(automatic, make_loader(8))

    assert torch.allclose(weights(manual), weights(automatic), atol=1e-6)


@pytest.mark.parametrize("found", ["manual", "auto", "thawed"])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_that_only_some_processes_have(
    make_loader: Any, ddp: Any, tmp_path: Path, found: str, sparse: bool
) -> None:
    """Each process uses a part of its own, both the third, none the fourth: averaged as DDP does dense ones."""

    class Parts(LightningModule):
        def __init__(self, way: str) -> None:
            super().__init__()
            self.way, self.automatic_optimization = way, way != "manual"
            layer = partial(nn.Embedding, 3, sparse=sparse and way != "plain")
            parts = [layer(2 + part) for part in range(4)]
            self.parts, self.head = nn.ModuleList(parts), nn.Linear(1, 1)
            self.parts.requires_grad_(way != "thawed")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.parts.requires_grad_()
            own = torch.tensor([self.global_rank, 1])
            used = (self.parts[self.global_rank], self.parts[2])
            loss = sum(part(own).square().sum() for part in used) + self.head.weight.sum()
            if not self.automatic_optimization:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def on_train_end(self) -> None:
            assert self.parts[3].weight.grad is None  # it must not decay
            note(tmp_path, self.way, weights(self))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    start = Parts("plain").state_dict()
    for way in ("plain", found):
        model = Parts(way)
        model.load_state_dict(start)
        more = {"accumulate_grad_batches": "auto"} if way == "auto" else {}
        ddp(max_epochs=1, options={"find_unused_parameters": True}, **more).fit(
            model, make_loader(4)
        )

    expected = notes(tmp_path, "plain")[0]
    for got in notes(tmp_path, found):
        assert torch.allclose(got, expected)


class Thaw(BaseFinetuning):
    """The first layer is trained from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, 0.1)


class ThawByHand(Callback):
    """The same as a user writes it, where the optimizer has all weights from the beginning."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.net[0].requires_grad_(False)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[0].requires_grad_(trainer.current_epoch == 1)


@pytest.mark.parametrize("window", [1, 2, "auto"])
@pytest.mark.parametrize("thaw", [Thaw, ThawByHand])
def test_what_is_unfrozen_later_stays_alike_in_all_processes(
    regression: Any,
    make_loader: Any,
    ddp: Any,
    tmp_path: Path,
    thaw: type[Callback],
    window: int | str,
) -> None:
    """DDP knows nothing of weights that were frozen when it wrapped the model."""

    class Head(regression):  # type: ignore[misc] # a fixture gives the class
        def configure_optimizers(self) -> Any:
            mine = [p for p in self.parameters() if p.requires_grad or thaw is ThawByHand]
            return torch.optim.SGD(mine, 0.1)

        def on_train_end(self) -> None:
            note(tmp_path, "weights", weights(self))

    model = Head()
    frozen = model.net[0].weight.clone()
    trainer = ddp(max_epochs=2, callbacks=thaw(), accumulate_grad_batches=window)
    trainer.fit(model, make_loader(8))

    first, second = notes(tmp_path, "weights")
    assert torch.equal(first, second)
    assert not torch.equal(model.net[0].weight, frozen)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_processes_evaluate_as_often(
    search: str | None, ddp: Any, tmp_path: Path, make_loader: Any, regression: Any
) -> None:
    """LBFGS looks at the loss, and decides by it whether to evaluate once more."""

    class Searches(regression):  # type: ignore[misc] # a fixture gives the class
        evaluations = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.evaluations += 1
            return super().training_step(batch, batch_idx)

        def on_train_end(self) -> None:
            note(tmp_path, "evaluations", [self.evaluations, self.net[0].weight.sum().item()])

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.5, max_iter=10, line_search_fn=search)

    ddp(max_epochs=3).fit(Searches(), make_loader(8))
    first, second = notes(tmp_path, "evaluations")
    assert first == second and first[0] > 12


def test_collectives(ddp: Any, tmp_path: Path, capfd: Any) -> None:
    class Talk(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            rank = trainer.global_rank
            gathered = pl_module.all_gather({"x": torch.tensor([rank, 7]), "y": rank})
            decided = trainer.strategy.broadcast({"run": f"from {rank}"})
            trainer.strategy.barrier()
            trainer.print("said once")
            reduce, all_of = trainer.strategy.reduce, trainer.strategy.reduce_boolean_decision
            own = torch.tensor(float(rank + 1))
            kinds = ("sum", "avg", "max", torch.distributed.ReduceOp.MIN)
            reduced = [reduce(own, reduce_op=op).item() for op in kinds]
            reduced.append(reduce(rank + 3.0).item())
            both = [all_of(True), all_of(rank == 0), all_of(rank == 0, all=False)]
            told = [gathered["x"].tolist(), gathered["y"].tolist(), decided]
            note(tmp_path, "talk", [*told, reduced, reduce(own, None, "mean").item(), both])

    ddp(callbacks=Talk()).fit(Seen(tmp_path), numbered(4, 2))

    told = [[[0, 7], [1, 7]], [0, 1], {"run": "from 0"}]
    expected = [*told, [3.0, 1.5, 2.0, 1.0, 3.5], 1.5, [True, False, True]]
    assert notes(tmp_path, "talk") == [expected, expected]
    assert capfd.readouterr().out.count("said once") == 1


def test_gradients_go_through_a_gather(ddp: Any, tmp_path: Path) -> None:
    """Each process weighs what it gathered by 1 and 2; the gradient of its own part is that of both sums."""

    class Gathers(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            own = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T.requires_grad_()
            gathered = pl_module.all_gather(own * (trainer.global_rank + 1), sync_grads=True)
            weights = torch.tensor([1.0, 2.0]).view(2, 1, 1)
            (gathered * weights * (trainer.global_rank + 1)).sum().backward()
            note(tmp_path, "gathered", [gathered[:, 0].tolist(), own.grad.tolist()])

    ddp(callbacks=Gathers()).fit(Seen(tmp_path), numbered(4, 2))

    both = [[1.0, 3.0], [2.0, 6.0]]  # the first row of each; the layout in memory does not matter
    first, second = [[3.0, 3.0]] * 2, [[12.0, 12.0]] * 2  # (1 + 2) * weight * own factor
    assert notes(tmp_path, "gathered") == [[both, first], [both, second]]


def test_prepare_data_runs_once(ddp: Any, tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def prepare_data(self) -> None:
            with (tmp_path / "prepared").open("a") as file:
                file.write("x")

        def setup(self, stage: str) -> None:
            assert (tmp_path / "prepared").read_text() == "x"

        def train_dataloader(self) -> Any:
            return numbered(4, 2)

    ddp().fit(Seen(tmp_path), datamodule=Data())


def test_a_step_sends_one_message(
    regression: Any, make_loader: Any, ddp: Any, tmp_path: Path
) -> None:
    """DDP's own; logging, clipping, monitoring and agreeing when to stop add none."""

    class Count(Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            if trainer.global_step in (10, 40):
                group = torch.distributed.distributed_c10d._get_default_group()
                name = f"sent-{trainer.global_step}"
                note(tmp_path, name, group._get_sequence_number_for_group())

    trainer = ddp(callbacks=Count(), gradient_clip_val=1.0)
    trainer.fit(regression(), make_loader(100), make_loader(2))

    before, after = notes(tmp_path, "sent-10"), notes(tmp_path, "sent-40")
    assert [end - begin for begin, end in zip(before, after, strict=True)] == [30, 30]


def test_prepare_data_runs_once_on_each_machine(make_trainer: Any, tmp_path: Path) -> None:
    """Two processes that are each the first of a machine, as far as they know: both prepare."""

    class Data(LightningDataModule):
        def prepare_data(self) -> None:
            note(tmp_path, "prepared", self.trainer.node_rank)

        def predict_dataloader(self) -> Any:
            return numbered(6, 1)

    def script() -> Any:
        strategy = DDPStrategy(timeout=timedelta(seconds=SECONDS))
        trainer = make_trainer(devices=1, num_nodes=2, strategy=strategy)
        return trainer.predict(Seen(tmp_path), datamodule=Data())

    here = [Place(2, node, 0, node) for node in (0, 1)]
    predicted = run_in_processes("fork", here, script, timedelta(seconds=SECONDS))

    assert notes(tmp_path, "prepared") == [0, 1]
    assert [number.item() for number in predicted] == [0, 10, 20, 30, 40, 50]


def test_sync_batchnorm(make_trainer: Any, regression: Any, make_loader: Any, ddp: Any) -> None:
    """torch's layer takes the place of each batch normalization; it has none for CPUs, which is said."""
    strategy = DDPStrategy()
    strategy.root_device = torch.device("cuda")
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))
    before = module[1][0].weight
    strategy.sync_batchnorm(module)

    assert isinstance(module[1][0], nn.SyncBatchNorm)
    assert module[1][0].weight is before
    with pytest.raises(RankFailed, match="works on GPUs only"):
        ddp(sync_batchnorm=True).fit(regression(), make_loader(2))


@pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated:FutureWarning")
@pytest.mark.parametrize("shared", [True, False])
def test_what_each_process_counted_is_that_of_the_first_in_an_evaluation(
    ddp: Any, tmp_path: Path, shared: bool
) -> None:
    """Running statistics, whole numbers and rows of a larger tensor, unless DDP is not to share buffers."""

    class Counts(Seen):
        def __init__(self) -> None:
            super().__init__(tmp_path)
            self.norm, self.every = nn.BatchNorm1d(1), torch.zeros(4)
            self.register_buffer("rows", self.every[::2])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.norm(batch[0].float()[:, None])
            self.norm.num_batches_tracked += self.global_rank
            self.every += self.global_rank + 1
            return super().training_step(batch, batch_idx)

        def own(self) -> list[Any]:
            kept = (self.norm.running_mean, self.norm.num_batches_tracked, self.every)
            return [tensor.tolist() for tensor in kept]

        def on_train_batch_end(self, *args: Any) -> None:
            self.trained = self.own()

        def on_validation_batch_start(self, *args: Any) -> None:
            note(tmp_path, "counted", [self.trained, self.own()])

    trainer = ddp(max_epochs=1, options={"broadcast_buffers": shared})
    trainer.fit(Counts(), numbered(4, 2), numbered(2, 1))

    (first, of_first), (second, of_second) = notes(tmp_path, "counted")
    assert first == of_first
    assert first != second
    mean, count, (one, others) = *of_first[:2], (of_first[2][::2], second[2][1::2])
    expected = [mean, count, [one[0], others[0], one[1], others[1]]] if shared else second
    assert of_second == expected


def test_averages_are_evaluated_with_what_the_first_process_counted(
    ddp: Any, tmp_path: Path
) -> None:
    class Counts(Seen):
        def __init__(self) -> None:
            super().__init__(tmp_path)
            self.norm = nn.BatchNorm1d(1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([self.norm(batch[0].float()[:, None])], batch_idx)

        def on_validation_batch_start(self, *args: Any) -> None:
            note(tmp_path, "mean", self.norm.running_mean.tolist())

    average = EMAWeightAveraging(decay=0.5)
    ddp(max_epochs=1, callbacks=average).fit(Counts(), numbered(4, 2), numbered(4, 2))

    first, second = notes(tmp_path, "mean")
    assert first == second


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_plateau_is_one_for_all(
    regression: Any, make_loader: Any, ddp: Any, tmp_path: Path, interval: str
) -> None:
    """Values of steps differ between processes; what a scheduler makes of them must not."""

    class Plateau(regression):  # type: ignore[misc] # a fixture gives the class
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rises = float(batch_idx) if self.global_rank else -2.0 * batch_idx
            self.log("own", rises)  # worse on one, better on the other, and better in the mean
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            named = {"scheduler": scheduler, "monitor": "own", "interval": interval}
            return {"optimizer": optimizer, "lr_scheduler": named}

        def on_train_end(self) -> None:
            state = self.lr_schedulers().state_dict()
            note(tmp_path, "plateau", [state["best"], self.optimizers().param_groups[0]["lr"]])

    ddp(max_epochs=1).fit(Plateau(), make_loader(8))

    assert notes(tmp_path, "plateau") == [[-1.5, 0.05]] * 2  # 3 batches on, the mean of 3 and -6


def test_parameters_without_a_gradient(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """Found where DDP is asked to look for them, by the name of the strategy; otherwise torch says what to do."""

    class Partly(regression):  # type: ignore[misc] # a fixture gives the class
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)

    model = Partly()
    before = weights(model)
    trainer = make_trainer(devices=2, strategy="ddp_fork_find_unused_parameters_true")
    trainer.fit(model, make_loader(6))
    assert not torch.equal(weights(model), before)
    with pytest.raises(RankFailed, match="find_unused_parameters=True"):
        make_trainer(devices=2, strategy="ddp_fork").fit(Partly(), make_loader(6))
