"""FSDP2: the numbers of one process, checkpoints any strategy can load."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffload, MixedPrecision, MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils.data import DataLoader, IterableDataset

from scaffold_runtime import Callback
from scaffold_runtime.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    ModelSummary,
    StochasticWeightAveraging,
)
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.errors import MisconfigurationException, RankFailed
from scaffold_runtime.strategies import FSDPStrategy
from scaffold_runtime.strategies.launch import places, run_in_processes

from .conftest import SECONDS, note, notes
from .test_numbers import weights

RUNS = """
from torch.utils.data import DataLoader
from scaffold_runtime import Trainer
from scaffold_runtime.demos.boring_classes import BoringModel

module = BoringModel()
for strategy in ("fsdp", "fsdp", "ddp"):
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, fast_dev_run=True)
    trainer.fit(module)
    print(f"trained under {strategy}")
"""


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"auto_wrap_policy": {nn.Linear}}, {"accumulate_grad_batches": 2}),
        ({"auto_wrap_policy": lambda m: isinstance(m, nn.Linear)}, {"gradient_clip_val": 0.1}),
        ({"cpu_offload": True, "reshard_after_forward": False}, {}),
        (
            {
                "auto_wrap_policy": partial(size_based_auto_wrap_policy, min_num_params=10),
                "sharding_strategy": "SHARD_GRAD_OP",
                "cpu_offload": CPUOffload(offload_params=True),
                "mixed_precision": MixedPrecision(reduce_dtype=torch.float32),
            },
            {},
        ),
        ({"auto_wrap_policy": ModuleWrapPolicy({nn.Linear})}, {}),
        ({"activation_checkpointing_policy": {nn.Tanh}}, {}),
        ({"activation_checkpointing_policy": {nn.Linear}, "auto_wrap_policy": {nn.Linear}}, {}),
    ],
)
def test_equal_to_ddp(
    adam: Any, make_loader: Any, ddp: Any, fsdp: Any, options: Any, arguments: Any
) -> None:
    sharded, copied = adam(), adam()
    copied.load_state_dict(sharded.state_dict())
    before = weights(sharded)

    fsdp(options=options, max_epochs=2, **arguments).fit(sharded, make_loader(8), make_loader(2))
    ddp(max_epochs=2, **arguments).fit(copied, make_loader(8), make_loader(2))

    assert torch.allclose(weights(sharded), weights(copied), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(weights(sharded), before)


def test_layers_that_compute_again_keep_names_and_flags(
    adam: Any, make_loader: Any, fsdp: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Frozen(adam):  # type: ignore[misc] # a fixture gives the class
        def __init__(self) -> None:
            super().__init__()
            self.net[0].requires_grad_(False).eval()
            self.names = [name for name, _ in self.named_modules()]

        def on_train_start(self) -> None:
            assert [name for name, _ in self.named_modules()] == self.names
            assert [p.requires_grad for p in self.net[0].parameters()] == [False, False]
            assert not self.net[0].training

    options = {"activation_checkpointing_policy": {nn.Linear}, "auto_wrap_policy": {nn.Linear}}
    kept: Any = {"callbacks": [ModelCheckpoint(tmp_path, "one")], "enable_checkpointing": True}
    fsdp(options=options, max_epochs=1, **kept).fit(Frozen(), make_loader(4))
    make_trainer(max_epochs=2).fit(Frozen(), make_loader(4), ckpt_path=tmp_path / "one.ckpt")


@pytest.mark.parametrize(
    "options",
    [
        {"device_mesh": (2, 2), "auto_wrap_policy": {nn.Linear}},
        {"device_mesh": (2, 2), "sharding_strategy": "_HYBRID_SHARD_ZERO2"},
    ],
)
def test_copies_of_divided_weights(
    adam: Any,
    make_loader: Any,
    make_trainer: Any,
    ddp: Any,
    fsdp: Any,
    options: Any,
    tmp_path: Path,
) -> None:
    """Two copies of the weights, each divided over two processes; one of them is saved, in parts."""

    class Look(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            mesh = module.net[0].weight.device_mesh
            assert mesh.shape == (2, 2), mesh
            assert module.net[0].weight.to_local().shape[0] == 4

    arguments = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    sharded, copied, resumed = adam(), adam(), adam()
    copied.load_state_dict(sharded.state_dict())
    resumed.load_state_dict(sharded.state_dict())
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    options = {**options, "state_dict_type": "sharded"}
    extras: Any = {"callbacks": [Look(), keep], "enable_checkpointing": True}

    fsdp(4, options, **arguments, **extras).fit(sharded, make_loader(16), make_loader(2))
    ddp(4, **arguments).fit(copied, make_loader(16), make_loader(2))

    assert torch.allclose(weights(sharded), weights(copied), rtol=1e-4, atol=1e-6)
    parts = sorted((tmp_path / "epoch=0.ckpt").glob("part-*"))
    large, small = parts[0].stat().st_size, parts[3].stat().st_size
    assert len(parts) == 4
    assert small < large
    fsdp(4, options, **arguments).fit(
        resumed, make_loader(16), make_loader(2), ckpt_path=tmp_path / "epoch=0.ckpt"
    )
    assert torch.equal(weights(resumed), weights(sharded))
    alone = adam.load_from_checkpoint(tmp_path / "epoch=1.ckpt")
    assert torch.equal(weights(alone), weights(sharded))


@pytest.mark.parametrize(
    "options",
    [
        {"device_mesh": (2, 3)},
        {"device_mesh": (1, 2)},
        {"sharding_strategy": "HYBRID_SHARD"},
    ],
)
def test_copies_that_do_not_fit_are_an_error(fsdp: Any, options: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"device_mesh=\(replicas, shards\)"):
        fsdp(options=options)


def test_a_copy_on_each_node_of_whatever_trainer(make_trainer: Any) -> None:
    strategy = FSDPStrategy(sharding_strategy="HYBRID_SHARD")
    for nodes in (2, 3):
        make_trainer(strategy=strategy, devices=2, num_nodes=nodes)
        assert strategy._shape == (nodes, 2)


@pytest.mark.parametrize("given", ["int8", True])
def test_an_unknown_format_is_refused(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match="choose 'bf16' or 'fp16'"):
        FSDPStrategy(mixed_precision=given)


SIXTEEN, THIRTY_TWO = torch.bfloat16, torch.float32


def test_gradients_travel_as_weights_do_where_the_fsdp_before_has_them_so() -> None:
    given = FSDPStrategy(mixed_precision=MixedPrecision(SIXTEEN))
    assert given._policy == MixedPrecisionPolicy(SIXTEEN, SIXTEEN)


@pytest.mark.parametrize(
    ("precision", "policy", "travels", "given"),
    [
        ("bf16-mixed", None, THIRTY_TWO, THIRTY_TWO),
        ("32-true", MixedPrecisionPolicy(SIXTEEN, THIRTY_TWO), SIXTEEN, SIXTEEN),
        ("32-true", MixedPrecision(SIXTEEN, THIRTY_TWO), SIXTEEN, SIXTEEN),
        ("bf16-mixed", "bf16", SIXTEEN, THIRTY_TWO),
    ],
)
def test_computing_in_sixteen_bits(
    adam: Any,
    make_loader: Any,
    ddp: Any,
    fsdp: Any,
    precision: str,
    policy: Any,
    travels: Any,
    given: Any,
) -> None:
    """Weights stay in 32 bits; what is computed with them is in 16, and what they travel in as a policy says."""

    class Look(adam):  # type: ignore[misc] # a fixture gives the class
        def forward(self, x: Any) -> Any:
            y = super().forward(x)
            assert (self.net[0].weight.dtype, x.dtype, y.dtype) == (travels, given, SIXTEEN)
            return y.float()

    half, full = Look(), adam()
    full.load_state_dict(half.state_dict())
    trainer = fsdp(options={"mixed_precision": policy}, max_epochs=2, precision=precision)
    trainer.fit(half, make_loader(8), make_loader(2))
    ddp(max_epochs=2).fit(full, make_loader(8))

    assert all(value.dtype is torch.float32 for value in half.state_dict().values())
    assert not torch.equal(weights(half), weights(full))
    assert torch.allclose(weights(half), weights(full), atol=0.05)


def test_what_a_policy_names_is_divided_by_itself(adam: Any, make_loader: Any, fsdp: Any) -> None:
    """The two layers, the function between them, and neither less nor more."""

    class Look(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            kinds = [type(part).__name__ for part in module.net]
            assert kinds == ["FSDPLinear", "Tanh", "FSDPLinear"], kinds

    size = partial(size_based_auto_wrap_policy, min_num_params=9)
    for policy in ({nn.Linear}, ["Linear"], "Linear", size, ModuleWrapPolicy({nn.Linear})):
        fsdp(options={"auto_wrap_policy": policy}, callbacks=Look()).fit(adam(), make_loader(4))
    for argument in ("auto_wrap_policy", "activation_checkpointing_policy"):
        with pytest.raises(RankFailed, match=r"'Liner', and no layer .* Did you mean `Linear`"):
            fsdp(options={argument: ["Liner"]}).fit(adam(), make_loader(4))


def test_a_model_without_memory_gets_it_part_by_part(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path
) -> None:
    """Each process initialises otherwise; all have what the first made, and start alike from a checkpoint."""

    class Empty(adam):  # type: ignore[misc] # a fixture gives the class
        def configure_model(self) -> None:
            with self.trainer.init_module(empty_init=True):
                self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
            torch.manual_seed(self.global_rank)

    class Look(Callback):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            now = torch.get_rng_state()
            torch.manual_seed(trainer.global_rank)
            assert torch.equal(now, torch.get_rng_state())

        def on_train_start(self, trainer: Any, module: Any) -> None:
            assert module.net[0].weight.to_local().shape[0] == 4
            assert module.net[1].running_var.tolist() == [1] * 8
            whole = {name: p.full_tensor().tolist() for name, p in module.net.named_parameters()}
            note(tmp_path, "weights", whole)

    options = {"auto_wrap_policy": {nn.Linear}}
    fsdp(options=options, callbacks=Look()).fit(Empty(), make_loader(4))
    first, second = notes(tmp_path, "weights")
    assert first == second
    assert 0 < abs(first["0.weight"][0][0]) < 0.5


@pytest.mark.parametrize("restore", [None, "all", "weights"])
def test_one_process_with_weights_is_enough(
    adam: Any, make_loader: Any, make_trainer: Any, fsdp: Any, restore: Any, tmp_path: Path
) -> None:
    """The others make no weights, draw no numbers and read no weights of a checkpoint."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.full((4,), 0.5))
            self.register_buffer("offset", torch.full((4,), 0.25), persistent=False)

        def forward(self, x: Any) -> Any:
            return x * self.factor + self.offset

    class Once(adam):  # type: ignore[misc] # a fixture gives the class
        def configure_model(self) -> None:
            with torch.device("meta" if self.global_rank else "cpu"):
                self.net = nn.Sequential(nn.Linear(4, 4), Scale(), nn.Linear(4, 1))
            torch.manual_seed(1)

    class Look(Callback):
        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            module.net = None

        def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
            if trainer.global_rank:
                checkpoint["state_dict"].clear()

        def on_train_start(self, trainer: Any, module: Any) -> None:
            whole = {name: p.full_tensor().tolist() for name, p in module.net.named_parameters()}
            note(tmp_path, "look", (whole, module.net[1].offset.tolist(), torch.rand(1)))

    before, trainer = Once(), make_trainer(max_epochs=1)
    trainer.fit(before, make_loader(4))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    given = {"ckpt_path": tmp_path / "a.ckpt", "restore": restore} if restore else {}
    options = {"auto_wrap_policy": {nn.Linear, Scale}}
    fsdp(options=options, callbacks=Look(), max_epochs=2).fit(Once(), make_loader(4), **given)

    first, second = notes(tmp_path, "look")
    assert first == second
    assert first[1] == [0.25] * 4
    same = first[0]["1.factor"] == before.net[1].factor.tolist()
    assert same == (restore is not None)


def test_a_divided_module_is_refused_elsewhere(tmp_path: Path) -> None:
    """It is divided in the processes that trained it, which may train it on."""
    program = tmp_path / "three.py"
    program.write_text(RUNS)
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("trained under fsdp") == 2 * 2  # twice in two processes
    assert done.returncode == 1
    assert "were sharded by FSDP in an earlier run" in done.stderr, done.stderr


def test_layers_that_share_a_weight_are_one_part(
    regression: Any, make_loader: Any, fsdp: Any, tmp_path: Path
) -> None:
    class Tied(regression):  # type: ignore[misc] # a fixture gives the class
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
            self.net[1].weight = self.net[0].weight

    with pytest.raises(RankFailed, match=r"net.0 and net.1 separately, which share a weight"):
        fsdp(options={"auto_wrap_policy": {nn.Linear}}).fit(Tied(), make_loader(4))
    for policy in ({nn.Sequential}, lambda layer: getattr(layer, "out_features", 0) == 1):
        fsdp(options={"auto_wrap_policy": policy}).fit(Tied(), make_loader(4))


def test_models_that_differ_between_processes_are_refused(
    adam: Any, make_loader: Any, fsdp: Any
) -> None:
    class Differs(adam):  # type: ignore[misc] # a fixture gives the class
        def configure_model(self) -> None:
            self.extra = nn.Linear(1, 1 + self.global_rank)

    with pytest.raises(
        RankFailed, match=r"ranks 0 and 1 differ in extra.bias: torch.float32 \(1,\)"
    ):
        fsdp().fit(Differs(), make_loader(4))


def test_only_the_first_process_has_whole_weights_to_save(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path
) -> None:
    class Look(Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            whole = trainer.strategy.whole(dict(module.state_dict()))
            note(tmp_path, "shape", whole["net.0.weight"].shape)

    fsdp(callbacks=Look()).fit(adam(), make_loader(4))
    assert notes(tmp_path, "shape") == [(8, 4), (0,)]


def test_processes_of_a_machine_share_the_memory_of_a_checkpoint(
    adam: Any, make_loader: Any, make_trainer: Any, fsdp: Any, ddp: Any, tmp_path: Path
) -> None:
    """While a run takes its own part of each tensor, and not where it keeps what it has read."""
    file = tmp_path / "a.ckpt"

    class Look(Callback):
        def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
            assert checkpoint["state_dict"]["net.0.weight"].isfinite().all()
            self.mapped = str(file) in Path("/proc/self/maps").read_text()

        def on_train_end(self, trainer: Any, module: Any) -> None:
            after = str(file) in Path("/proc/self/maps").read_text()
            note(tmp_path, "maps", (self.mapped, after))

    trainer = make_trainer(max_epochs=1)
    trainer.fit(adam(), make_loader(4))
    trainer.save_checkpoint(file)
    for kind, expected in ((fsdp, (True, False)), (ddp, (False, False))):
        again = kind(callbacks=Look(), max_epochs=2)
        again.fit(adam(), make_loader(4), ckpt_path=file)
        assert notes(tmp_path, "maps") == [expected] * 2


def test_a_process_takes_its_piece_of_what_it_read_without_the_others(together: Any) -> None:
    def script() -> Any:
        mesh = init_device_mesh("cpu", (2,))
        own = distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)])
        whole = {"weight": torch.arange(6.0).reshape(3, 2)}
        if torch.distributed.get_rank() == 0:
            FSDPStrategy().scatter(whole, {"weight": own})
        torch.distributed.barrier()
        return whole["weight"].to_local() if torch.distributed.get_rank() == 0 else None

    assert together(script).tolist() == [[0, 1], [2, 3]]


def test_a_save_between_batches_of_a_window_says_that_it_is_torn(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path
) -> None:
    class Save(Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, out: Any, batch: Any, i: int
        ) -> None:
            if i == 2:
                trainer.save_checkpoint(tmp_path / "own.ckpt")

    fsdp(callbacks=Save(), accumulate_grad_batches=2).fit(adam(), make_loader(8))
    assert read_checkpoint(tmp_path / "own.ckpt")["torn"]


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_losses(
    adam: Any, make_loader: Any, ddp: Any, fsdp: Any, fused: bool, tmp_path: Path
) -> None:
    """A step that overflows in one process is left out in all, as under ddp, also after a resume."""

    class Overflows(adam):  # type: ignore[misc] # a fixture gives the class
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if self.global_rank == 1 and batch_idx == 2:
                loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.05, fused=fused)

    before, trained, scales = Overflows(), [], []
    for name, make, given in (
        ("ddp", ddp, {}),
        ("fsdp", fsdp, {}),
        ("fsdp", fsdp, {"ckpt_path": tmp_path / "fsdp" / "step=3.ckpt"}),
    ):
        trained.append(copy.deepcopy(before))
        keep = ModelCheckpoint(tmp_path / name, "{step}", save_top_k=-1, every_n_train_steps=1)
        arguments = {"max_epochs": 2, "gradient_clip_val": 0.5, "enable_checkpointing": True}
        trainer = make(precision="16-mixed", callbacks=keep, **arguments)
        trainer.fit(trained[-1], make_loader(8), **given)
        scales.append(read_checkpoint(Path(keep.best_model_path))["precision"])

    copied, divided, resumed = map(weights, trained)
    assert torch.allclose(divided, copied, rtol=1e-3, atol=1e-4)
    assert torch.equal(resumed, divided)
    assert not torch.equal(divided, weights(before))
    assert scales[0] == scales[1] == scales[2]
    assert scales[0]["scale"] < 2**16


def test_manual_optimization_is_refused(adam: Any, make_loader: Any, fsdp: Any) -> None:
    class Manual(adam):  # type: ignore[misc] # a fixture gives the class
        automatic_optimization = False

    with pytest.raises(RankFailed, match="with manual optimization"):
        fsdp().fit(Manual(), make_loader(4))


def test_a_summary_runs_the_example_in_all_processes(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path
) -> None:
    class Show(ModelSummary):
        def show(self, trainer: Any, summary: Any) -> None:
            note(tmp_path, "shown", torch.tensor(summary.total_flops))

    model = adam()
    model.example_input_array = torch.ones(1, 4)
    fsdp(callbacks=Show(), max_epochs=1).fit(model, make_loader(4), make_loader(2))
    (operations,) = notes(tmp_path, "shown", 1)  # by the first alone
    assert operations > 0
    assert len(list(tmp_path.glob("shown-*"))) == 1


@pytest.mark.parametrize("named", [False, True])
def test_a_part_called_outside_a_step_is_to_be_named(
    adam: Any, make_loader: Any, fsdp: Any, named: bool
) -> None:
    """As `generate` of a model of transformers, which calls that model and not the module around it."""

    class Apart(adam):  # type: ignore[misc] # a fixture gives the class
        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                self.net(torch.ones(1, 4))

    trainer = fsdp(options={"auto_wrap_policy": {nn.Sequential} if named else None})
    says = pytest.raises(RankFailed, match="name the class that is called in auto_wrap_policy")
    with nullcontext() if named else says:
        trainer.fit(Apart(), make_loader(4))


@pytest.mark.parametrize("options", [{}, {"auto_wrap_policy": {nn.Linear}}])
def test_the_module_may_be_called_outside_its_steps(
    adam: Any, make_loader: Any, fsdp: Any, tmp_path: Path, options: Any
) -> None:
    """As callbacks do that draw what a model says; before the first step, between steps, and after the last."""

    class Ask(Callback):
        def ask(self, trainer: Any, module: Any, *_: Any) -> None:
            with torch.no_grad():
                note(tmp_path, f"said{trainer.global_step}", module(torch.ones(1, 4)))

        on_train_start = on_train_batch_end = ask

        def on_fit_end(self, trainer: Any, module: Any) -> None:
            note(tmp_path, "said", module(x=torch.ones(1, 4)).detach())

    model = adam()
    start = copy.deepcopy(model)
    fsdp(options=options, callbacks=Ask(), max_epochs=2).fit(model, make_loader(4), make_loader(2))

    with torch.no_grad():
        assert torch.equal(*notes(tmp_path, "said0"))
        assert torch.allclose(notes(tmp_path, "said0")[0], start(torch.ones(1, 4)))
        assert torch.allclose(notes(tmp_path, "said")[0], model(torch.ones(1, 4)))
        assert not torch.allclose(notes(tmp_path, "said1")[0], notes(tmp_path, "said2")[0])


@pytest.mark.parametrize("then", ["fsdp", "ddp", "one"])
@pytest.mark.parametrize("first", ["fsdp", "ddp"])
def test_checkpoints_move_between_strategies(
    adam: Any,
    make_loader: Any,
    make_trainer: Any,
    ddp: Any,
    fsdp: Any,
    tmp_path: Path,
    first: str,
    then: str,
) -> None:
    keep = ModelCheckpoint(tmp_path, "two", every_n_epochs=2)
    made = {"fsdp": fsdp, "ddp": ddp, "one": make_trainer}
    joint = torch.arange(32).view(-1, 8).tolist()  # what two processes see together, for one
    data = make_loader(8).dataset

    def loader(strategy: str) -> DataLoader[Any]:
        if strategy == "one":
            return DataLoader(data, batch_sampler=joint)
        return DataLoader(data, batch_size=4)

    start = adam()
    whole, rest = adam(), adam()
    whole.load_state_dict(start.state_dict())
    made[first](max_epochs=2, callbacks=keep, enable_checkpointing=True).fit(start, loader(first))
    made["ddp"](max_epochs=3).fit(whole, loader("ddp"))
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == start.state_dict().keys()

    made[then](max_epochs=3).fit(rest, loader(then), ckpt_path=tmp_path / "two.ckpt")

    assert torch.allclose(weights(rest), weights(whole), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "callback", [EMAWeightAveraging(), StochasticWeightAveraging(0.05, swa_epoch_start=1)]
)
def test_averages_of_whole_weights_are_refused(
    adam: Any, make_loader: Any, fsdp: Any, callback: Any
) -> None:
    with pytest.raises(
        RankFailed, match="averages whole weights, and under FSDPStrategy no process"
    ):
        fsdp(callbacks=callback).fit(adam(), make_loader(4))


class Stream(IterableDataset[Any]):
    """Three batches for the first process, one for the second."""

    def __iter__(self) -> Any:
        first = torch.distributed.get_rank() == 0
        return iter([(torch.ones(4, 4) * i, torch.ones(4, 1)) for i in range(3 if first else 1)])


@pytest.mark.parametrize("limit", [1.0, 10])
def test_uneven_evaluation(adam: Any, make_loader: Any, ddp: Any, fsdp: Any, limit: Any) -> None:
    """Where one process has a batch more, none waits for the others: weights are whole for as long. What was
    gathered for an evaluation does not get into the way of training."""

    def results(make: Any, **options: Any) -> list[float]:
        torch.manual_seed(0)
        model, found = adam(), []
        trainer = make(max_epochs=2, limit_val_batches=limit, **options)

        def script() -> list[float]:
            for loader in (make_loader(3), make_loader(1), DataLoader(Stream(), batch_size=None)):
                found.append(trainer.validate(model, loader, verbose=False)[0]["val_loss"])
            trainer.fit(model, make_loader(8), make_loader(3))
            return [*found, trainer.callback_metrics["val_loss"].item()]

        trainer.strategy.start_method = "popen"  # as under torchrun: the runs share their processes
        timeout = timedelta(seconds=SECONDS)
        returned: list[float] = run_in_processes("fork", places(2, 1, 0), script, timeout)
        return returned

    policy = {"options": {"auto_wrap_policy": {nn.Linear}}}
    assert results(fsdp, **policy) == pytest.approx(results(ddp), rel=1e-4)
