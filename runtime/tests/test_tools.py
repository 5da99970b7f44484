"""Beside training: making modules in place, compiling, exporting, and what one process accepts of many."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.checkpoint.io import read_checkpoint
from scaffold_runtime.errors import MisconfigurationException


def test_init_module_makes_weights_in_the_runs_format(regression: Any, make_trainer: Any) -> None:
    trainer = make_trainer(precision="bf16-true")
    with trainer.init_module():
        module = regression()
    assert (module.dtype, module.device.type) == (torch.bfloat16, "cpu")
    assert torch.get_default_dtype() is torch.float32


def test_configure_model_makes_layers_late(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    class Late(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.made = None, 0

        def configure_model(self) -> None:
            if self.net is None:
                self.made += 1
                self.net = nn.Linear(4, 1)

    module, trainer = Late(), make_trainer(precision="64-true")
    trainer.fit(module, make_loader(1))
    trainer.test(module, make_loader(1))
    assert (module.made, module.net.weight.dtype) == (1, torch.float64)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = Late()
    make_trainer(precision="64-true").test(again, make_loader(1), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(again.net.weight, module.net.weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it between two graphs
@pytest.mark.parametrize("position", ["whole", "part", "configure_model", "in place"])
def test_compiled_anywhere(
    position: str, regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        """Run the graph as it is: what is tested is that there is one, and where `_orig_mod` ends up."""
        graphs.append(graph)
        return graph.forward

    class Module(regression):
        def configure_model(self) -> None:
            if position == "configure_model" and not hasattr(self.net, "_orig_mod"):
                self.net = torch.compile(self.net, backend=backend)

    torch.compiler.reset()
    module = Module()
    layer = module.net[0]
    given: Any = module
    if position == "whole":
        given = torch.compile(module, backend=backend)
    elif position == "part":
        module.net[0] = torch.compile(layer, backend=backend)
    elif position == "in place":
        module.compile(backend=backend)
    trainer = make_trainer()
    trainer.fit(given, make_loader(2), make_loader(1))
    assert graphs
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    names = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert not any("_orig_mod" in name for name in names)
    plain = regression.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(plain.net[0].bias, layer.bias)
    trainer.test(given, make_loader(1), ckpt_path=tmp_path / "a.ckpt")  # and back into the compiled
    trainer.predict(given, make_loader(1))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_copy_of_what_was_compiled_computes_with_its_own_weights(
    in_place: bool, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    torch.compiler.reset()
    module = regression()
    if in_place:
        module.compile(backend="eager")
    make_trainer().fit(
        module if in_place else torch.compile(module, backend="eager"), make_loader(2)
    )
    pickled = pickle.loads(pickle.dumps(module))
    for other in (copy.deepcopy(module), pickled):
        weights = [parameter.detach().clone() for parameter in module.parameters()]
        make_trainer().fit(other, make_loader(2))
        assert not torch.equal(other.net[0].bias, module.net[0].bias)
        assert all(map(torch.equal, module.parameters(), weights))
        assert not torch.equal(other(torch.ones(1, 4)), module(torch.ones(1, 4)))


@pytest.mark.filterwarnings("ignore")  # of dynamo, about what it cannot trace
@pytest.mark.parametrize("position", ["step", "forward", "second name"])
def test_compiled_functions_and_names(
    position: str, regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    """As a decorator of a step that logs, of `forward`, and beside the layer itself."""

    class Module(regression):
        def __init__(self) -> None:
            super().__init__()
            if position == "forward":
                self.forward = torch.compile(self.forward, backend="eager")
            if position == "second name":
                self.fast = torch.compile(self.net, backend="eager")

        if position == "step":
            training_step = torch.compile(regression.training_step, backend="eager")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(self, "fast", self.net)(x)

    torch.compiler.reset()
    results = []
    for kind in (regression, Module):
        torch.manual_seed(0)
        module, trainer = kind(), make_trainer()
        trainer.fit(module, make_loader(2), make_loader(1))
        results.append([trainer.callback_metrics["loss"], module.net[0].weight])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    names = read_checkpoint(tmp_path / "a.ckpt")["state_dict"]
    assert not any("_orig_mod" in name for name in names)
    resumed = make_trainer(max_epochs=2)
    resumed.fit(Module(), make_loader(2), ckpt_path=tmp_path / "a.ckpt")
    assert resumed.global_step == 4


def test_sync_batchnorm_is_accepted_in_one_process(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    module = regression()
    module.net.insert(1, nn.BatchNorm1d(8))
    make_trainer(sync_batchnorm=True).fit(module, make_loader(2))
    assert type(module.net[1]) is nn.BatchNorm1d  # there is nobody to share statistics with


def test_gather_and_reduce_in_one_process(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: list[Any] = []

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(self.all_gather({"x": torch.ones(2), "y": 3}, sync_grads=True))
            self.trainer.strategy.barrier("here")
            assert self.trainer.strategy.broadcast("word") == "word"
            assert self.trainer.strategy.reduce(torch.tensor(2.0), reduce_op="sum") == 2
            assert self.trainer.strategy.reduce_boolean_decision(True)
            return self.loss(batch)

    make_trainer().fit(Module(), make_loader(1))
    assert torch.equal(seen[0]["x"], torch.ones(2))
    assert torch.equal(seen[0]["y"], torch.tensor(3))


def test_freeze_and_unfreeze(regression: Any) -> None:
    module = regression()
    module.freeze()
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    module.unfreeze()
    assert module.training and all(p.requires_grad for p in module.parameters())


def test_device_and_dtype(regression: Any) -> None:
    module = regression()
    assert (module.device.type, module.dtype) == ("cpu", torch.float32)
    assert (module.double().dtype, module.to("meta").device.type) == (torch.float64, "meta")
    assert (module.current_epoch, module.global_step, module.logger, module.loggers) == (0, 0, None, [])  # fmt: skip


def test_frozen_parts_stay_in_evaluation_mode(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    class Module(regression):
        def on_train_epoch_start(self) -> None:
            self.net[0].eval()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.training and not self.net[0].training
            return self.loss(batch)

    make_trainer(val_check_interval=1).fit(Module(), make_loader(3), make_loader(1))


def test_modes_are_put_back_after_evaluation(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    module, trainer = regression(), make_trainer()
    for function in (trainer.validate, trainer.test, trainer.predict):
        function(module, make_loader(1))
        assert module.training


def test_after_a_test_a_checkpoint_is_still_whole(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    module, trainer = regression(), make_trainer()
    trainer.fit(module, make_loader(2))
    trainer.test(module, make_loader(1))
    assert len(trainer.optimizers) == 1
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = make_trainer(max_epochs=2)
    resumed.fit(module, make_loader(2), ckpt_path=tmp_path / "a.ckpt")
    assert resumed.global_step == 4


def test_no_checkpoint_before_the_first_step(
    regression: Any, make_loader: Any, make_trainer: Any, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    make_trainer(callbacks=saving, enable_checkpointing=True, accumulate_grad_batches=2).fit(
        regression(), make_loader(4)
    )
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=1.ckpt", "step=2.ckpt"]


def test_fit_goes_on_where_it_ended(regression: Any, make_loader: Any, make_trainer: Any) -> None:
    module, trainer = regression(), make_trainer()
    trainer.fit(module, make_loader(2))
    trainer.fit(module, make_loader(2))
    assert trainer.global_step == 2  # max_epochs is reached
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, make_loader(2))
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)


def test_a_trainer_can_be_asked_where_it_is(
    regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    seen: dict[str, list[bool]] = {}

    def flags(module: Any) -> list[bool]:
        trainer = module.trainer
        names = ("training", "sanity_checking", "validating", "testing", "predicting", "evaluating")
        return [getattr(trainer, name) for name in names]

    class Module(regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen["train"] = flags(self)
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen["sanity" if self.trainer.sanity_checking else "validation"] = flags(self)

        def test_step(self, batch: Any, batch_idx: int) -> None:
            seen["test"] = flags(self)

        def predict_step(self, batch: Any, batch_idx: int) -> None:
            seen["predict"] = flags(self)

    trainer = make_trainer()
    assert trainer.state.status == "initializing"
    trainer.fit(Module(), make_loader(1), make_loader(1))
    assert (trainer.state.fn, trainer.state.stage, trainer.state.status) == (
        "fit",
        None,
        "finished",
    )
    trainer.test(Module(), make_loader(1))
    trainer.predict(Module(), make_loader(1))
    assert seen == {
        "sanity": [False, True, False, False, False, True],
        "train": [True, False, False, False, False, False],
        "validation": [False, False, True, False, False, True],
        "test": [False, False, False, True, False, True],
        "predict": [False, False, False, False, True, False],
    }


@pytest.mark.parametrize(
    ("name", "words"), [("to_torchscript", "torch.export.export"), ("to_tensorrt", "to_onnx")]
)
def test_other_exports_say_what_to_use(regression: Any, name: str, words: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"has no `{name}`: use `{words}"):
        getattr(regression(), name)(file_path="model.pt")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch, about itself
def test_to_onnx_computes_the_same(regression: Any, tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    class Dropping(regression):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    module, x = Dropping(), torch.randn(3, 4)
    module.to_onnx(tmp_path / "a.onnx", x)
    assert module.training
    with torch.no_grad():
        expected = module.eval()(x)
    found = ReferenceEvaluator(str(tmp_path / "a.onnx")).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected)
    with pytest.raises(MisconfigurationException, match="example_input_array"):
        module.to_onnx(tmp_path / "b.onnx")


def test_batch_norm_becomes_synchronized_where_processes_share_it(regression: Any) -> None:
    """The conversion alone: the layer computes on GPUs only, of several processes."""
    from scaffold_runtime.strategies import DDPStrategy, SingleDeviceStrategy

    class Normed(regression):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    strategy = DDPStrategy()
    strategy.root_device = torch.device("cuda", 0)
    module = Normed()
    module.net[1].running_mean.fill_(3.0)
    before = module.state_dict()
    strategy.sync_batchnorm(module)
    assert type(module.net[1]) is nn.SyncBatchNorm
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    alone = Normed()
    SingleDeviceStrategy().sync_batchnorm(alone)
    assert type(alone.net[1]) is nn.BatchNorm1d
    strategy.root_device = torch.device("cpu")
    with pytest.raises(MisconfigurationException, match="GPUs only"):
        strategy.sync_batchnorm(alone)
