"""Hyperparameters: kept from `__init__`, logged, saved in checkpoints, and enough to make the object again."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from scaffold_runtime import LightningDataModule, LightningModule
from scaffold_runtime.errors import CheckpointError, MisconfigurationException
from scaffold_runtime.loggers.logger import flat, plain_tree


@dataclass
class Config:
    lr: float = 0.1
    layers: list[int] = field(default_factory=lambda: [4, 4])


# -- what is kept ---------------------------------------------------------------------------------


class Everything(LightningModule):
    def __init__(self, lr: float, width: int = 8, *, name: str = "net", **rest: Any) -> None:
        super().__init__()
        local = lr * 2  # not an argument
        self.save_hyperparameters()
        self.local = local


def test_all_arguments() -> None:
    module = Everything(0.1, name="mine", depth=3)
    assert module.hparams == {"lr": 0.1, "width": 8, "name": "mine", "depth": 3}
    assert module.hparams.lr == module.hparams["lr"] == 0.1


def test_named_arguments_and_ignored_ones() -> None:
    class Named(LightningModule):
        def __init__(self, a: int, b: int, c: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters("a", "c")

    class Ignoring(LightningModule):
        def __init__(self, a: int, b: int, c: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["a", "b"])

    class IgnoringOne(LightningModule):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.save_hyperparameters(ignore="a")

    assert Named(1, 2).hparams == {"a": 1, "c": 3}
    assert Ignoring(1, 2).hparams == {"c": 3}
    assert IgnoringOne(1, 2).hparams == {"b": 2}


def test_only_ones_own_arguments_are_kept() -> None:
    class Outer(LightningModule):
        def __init__(self, mine: int) -> None:
            super().__init__()
            self.inner = Everything(0.1)

    assert set(Outer(1).inner.hparams) == {"lr", "width", "name"}


def test_a_name_that_is_no_argument_is_an_error() -> None:
    class Wrong(LightningModule):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters("widht")

    with pytest.raises(MisconfigurationException, match=r"no argument `widht`.*`width`"):
        Wrong(3)


def test_arguments_of_a_subclass_and_its_base() -> None:
    class Base(LightningModule):
        def __init__(self, lr: float, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Child(Base):
        def __init__(self, extra: str, lr: float = 0.5) -> None:
            super().__init__(lr=lr * 2)

    class Grown(Base):
        def __init__(self, extra: str, **rest: Any) -> None:
            super().__init__(**rest)
            self.save_hyperparameters()

    assert Child("x").hparams == {"extra": "x", "lr": 0.5, "width": 8}
    assert Grown("x", lr=0.1).hparams == {"extra": "x", "lr": 0.1, "width": 8}


@pytest.mark.parametrize(
    "value",
    [{"lr": 0.1, "deep": {"a": [1]}}, Namespace(lr=0.1, deep={"a": [1]})],
    ids=["dict", "namespace"],
)
def test_one_mapping(value: Any) -> None:
    class One(LightningModule):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.save_hyperparameters(config)

    assert One(value).hparams == {"lr": 0.1, "deep": {"a": [1]}}


def test_a_dataclass() -> None:
    class One(LightningModule):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.save_hyperparameters(config, ignore="layers")

    assert One(Config(lr=0.3)).hparams == {"lr": 0.3}


def test_other_things_are_refused() -> None:
    class Two(LightningModule):
        def __init__(self, a: Any) -> None:
            super().__init__()
            self.save_hyperparameters(a)

    class Several(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"a": 1}, {"b": 2})

    with pytest.raises(MisconfigurationException, match=r"type int.*mapping"):
        Two(3)
    with pytest.raises(MisconfigurationException, match="names of arguments, or one mapping"):
        Several()


def test_saving_twice_adds() -> None:
    class Twice(LightningModule):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.save_hyperparameters("a")
            self.save_hyperparameters("b")

    assert Twice(1, 2).hparams == {"a": 1, "b": 2}


def test_initial_values_survive_changes() -> None:
    class Deep(LightningModule):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__()
            self.save_hyperparameters()

    module = Deep({"lr": 0.1})
    module.hparams.config["lr"] = 9.0
    module.hparams.added = 1
    assert module.hparams == {"config": {"lr": 9.0}, "added": 1}
    assert module.hparams_initial == {"config": {"lr": 0.1}}


def test_a_missing_hyperparameter_is_an_attribute_error() -> None:
    module = Everything(0.1)
    with pytest.raises(AttributeError, match=r"no hyperparameter `widht`.*`width`"):
        _ = module.hparams.widht
    assert LightningModule().hparams == {}


def test_they_print_as_a_table() -> None:
    assert repr(Everything(0.1).hparams).splitlines()[:2] == ['"lr":    0.1', '"width": 8']


# -- loggers --------------------------------------------------------------------------------------


def test_module_and_data_module_are_logged_together(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.save_hyperparameters()

    class Data(LightningDataModule):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return make_loader(1)

    make_trainer(logger=recorder).fit(Module(), Data())
    assert recorder.hparams == [{"lr": 0.1, "size": 4}]


@pytest.mark.parametrize("silent", ["logger=False", "enable_autolog_hparams=False"])
def test_not_logged_where_switched_off(
    silent: str, regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__(lr)
            self.save_hyperparameters(logger=silent != "logger=False")

    arguments = {"enable_autolog_hparams": False} if silent != "logger=False" else {}
    make_trainer(logger=recorder, **arguments).fit(Module(), make_loader(1))
    assert recorder.hparams == []


def test_the_same_name_with_two_values_is_an_error(
    regression: Any, make_loader: Any, make_trainer: Any, recorder: Any
) -> None:
    class Module(regression):
        def __init__(self, size: int = 1) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Data(LightningDataModule):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            return make_loader(1)

    with pytest.raises(MisconfigurationException, match=r"`size`.*module 1.*data module 4"):
        make_trainer(logger=recorder).fit(Module(), Data())


# -- checkpoints ----------------------------------------------------------------------------------


class Net(LightningModule):
    def __init__(self, width: int, activation: str = "tanh", loss: nn.Module | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["loss"])
        self.activation = activation
        self.layer = nn.Linear(4, width)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def saved(make_loader: Any, make_trainer: Any, tmp_path: Path) -> Any:
    """`saved(module)`: the path of a checkpoint of `module` after a step of training."""

    def save(module: Any, datamodule: Any = None) -> Path:
        trainer = make_trainer()
        trainer.fit(module, None if datamodule else make_loader(1), datamodule=datamodule)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    return save


def test_load_from_checkpoint_makes_the_module_again(saved: Any) -> None:
    module = Net(3, activation="relu", loss=nn.MSELoss())
    again = Net.load_from_checkpoint(saved(module))
    assert again.hparams == {"width": 3, "activation": "relu"}
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True)
    )


def test_load_from_an_open_file(saved: Any) -> None:
    path = saved(Net(3))
    with open(path, "rb") as file:
        assert Net.load_from_checkpoint(file).hparams.width == 3
    memory = io.BytesIO(path.read_bytes())
    memory.seek(0, io.SEEK_END)  # as whoever wrote it left it
    assert Net.load_from_checkpoint(memory).hparams.width == 3
    with pytest.raises(CheckpointError, match="damaged"):
        Net.load_from_checkpoint(io.BytesIO(path.read_bytes()[:500]))


def test_arguments_override_what_was_saved(saved: Any, tmp_path: Path) -> None:
    path = saved(Net(3))
    assert Net.load_from_checkpoint(path, activation="gelu").activation == "gelu"
    (tmp_path / "hparams.yaml").write_text("activation: elu\n")
    assert Net.load_from_checkpoint(path, hparams_file=str(tmp_path / "hparams.yaml")).activation == "elu"  # fmt: skip
    with pytest.raises(CheckpointError, match="do not fit Net"):
        Net.load_from_checkpoint(path, width=5)


def test_what_init_needs_and_the_checkpoint_lacks_is_named(saved: Any) -> None:
    class Needy(Net):
        def __init__(self, needed: int, **rest: Any) -> None:
            super().__init__(**rest)

    with pytest.raises(CheckpointError, match=r"needed.*keyword argument, and none"):
        Needy.load_from_checkpoint(saved(Net(3)))
    assert Needy.load_from_checkpoint(saved(Net(3)), needed=1).layer.out_features == 3


def test_strict_and_strict_loading(saved: Any) -> None:
    class More(Net):
        def __init__(self, **rest: Any) -> None:
            super().__init__(**rest)
            self.more = nn.Linear(1, 1)

    class Lenient(More):
        strict_loading = False

    path = saved(Net(3))
    with pytest.raises(CheckpointError, match=r"more\.weight"):
        More.load_from_checkpoint(path)
    assert More.load_from_checkpoint(path, strict=False).more.in_features == 1
    assert Lenient.load_from_checkpoint(path).more.in_features == 1


def test_a_config_argument_comes_back_as_one(make_loader: Any, saved: Any) -> None:
    class One(Net):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config["width"])
            self._hparams = None
            self.save_hyperparameters(config)
            self.config = config

    again = One.load_from_checkpoint(saved(One({"width": 2, "deep": {"a": 1}})))
    assert again.config == {"width": 2, "deep": {"a": 1}}
    assert again.config["deep"]["a"] == 1


def test_data_modules_too(make_loader: Any, saved: Any) -> None:
    class Data(LightningDataModule):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.epochs_seen = 0

        def train_dataloader(self) -> Any:
            self.epochs_seen += 1
            return make_loader(1)

        def state_dict(self) -> dict[str, Any]:
            return {"epochs_seen": self.epochs_seen}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.epochs_seen = state_dict["epochs_seen"]

    again = Data.load_from_checkpoint(saved(Net(3), Data(7)))
    assert (again.hparams.size, again.epochs_seen) == (7, 1)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (nn.Linear(1, 1), "a torch.nn.modules.linear.Linear"),
        (object(), "a builtins.object"),
        (nn.functional.relu, "torch.nn.functional.relu"),
        (torch.optim.Adam, "torch.optim.adam.Adam"),
        ({"deep": [nn.ReLU()]}, "a torch.nn.modules.activation.ReLU"),
    ],
    ids=["module", "object", "function", "class", "nested"],
)
def test_what_is_not_plain_is_kept_here_and_asked_for_there(
    value: Any, what: str, saved: Any
) -> None:
    class Any_(Net):  # noqa: N801
        def __init__(self, backbone: Any, width: int = 3) -> None:
            super().__init__(width)
            self.save_hyperparameters()

    module = Any_(value, 2)
    path = saved(module)

    assert module.hparams.backbone is value
    with pytest.raises(CheckpointError, match=rf"`backbone.* is {what},.*\(path, backbone=\.\."):
        Any_.load_from_checkpoint(path)
    again = Any_.load_from_checkpoint(path, backbone=value)
    assert again.hparams.width == 2 and again.hparams.backbone is value


class DictConfig(dict[str, Any]):
    """As OmegaConf's: no plain dict, with values that refer to others."""


class OmegaConf:
    @staticmethod
    def is_config(value: Any) -> bool:
        return isinstance(value, DictConfig)

    @staticmethod
    def to_container(config: DictConfig, resolve: bool) -> dict[str, Any]:
        return {k: config["width"] if resolve and v == "${width}" else v for k, v in config.items()}

    @staticmethod
    def create(value: dict[str, Any]) -> DictConfig:
        return DictConfig(value)


def test_a_configuration_of_omegaconf_comes_back(
    saved: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "omegaconf", SimpleNamespace(OmegaConf=OmegaConf))

    class Configured(Net):
        def __init__(self, config: Any) -> None:
            super().__init__(config["width"])
            self.save_hyperparameters("config")

    path = saved(Configured(DictConfig(width=2, out="${width}")))

    kept = torch.load(path, weights_only=True)["hyper_parameters"]["config"]
    assert kept == {"width": 2, "out": "${width}"}
    again = Configured.load_from_checkpoint(path).hparams.config
    assert type(again) is DictConfig and again == kept
    assert flat({"config": again}) == {"config/width": 2, "config/out": 2}
    assert plain_tree({"config": again}) == {"config": {"width": 2, "out": 2}}


def test_objects_that_need_not_be_asked_for(saved: Any) -> None:
    class Defaulted(Net):
        def __init__(self, width: int = 3, activation: Any = torch.relu) -> None:
            super().__init__(width)
            self.save_hyperparameters()

    class Whole(Net):
        def __init__(self, config: Any) -> None:
            super().__init__(config["width"])
            self.save_hyperparameters(config)

    assert Defaulted.load_from_checkpoint(saved(Defaulted(2))).hparams.activation is torch.relu
    config = {"width": 2, "layer": nn.ReLU()}
    again = Whole.load_from_checkpoint(saved(Whole(config)), config=config)
    assert again.hparams.width == 2 and again.hparams.layer is config["layer"]


def test_a_run_that_saves_says_what_will_be_asked_for(make_loader: Any, make_trainer: Any) -> None:
    class Keeping(Net):
        def __init__(self, net: nn.Module, optimizer: Any) -> None:
            super().__init__(3)
            self.save_hyperparameters(logger=False)
            self.net = net

        def configure_optimizers(self) -> Any:
            return self.hparams.optimizer(self.parameters())

    trainer = make_trainer(enable_checkpointing=True, default_root_dir="root")
    module = Keeping(nn.Linear(1, 1), partial(torch.optim.SGD, lr=0.1))
    kept = (
        "of Keeping, `net` is a torch.nn.modules.linear.Linear, `optimizer` is a functools.partial"
    )
    with pytest.warns(match=kept):
        trainer.fit(module, make_loader(1))


def test_a_namespace_comes_back(saved: Any) -> None:
    class Parsed(Net):
        def __init__(self, args: Namespace) -> None:
            super().__init__(args.width)
            self.save_hyperparameters()

    path = saved(Parsed(Namespace(width=2, lr=0.1)))

    assert Parsed.load_from_checkpoint(path).hparams.args == Namespace(width=2, lr=0.1)


@pytest.mark.parametrize(
    "value", [1, 2.5, "a", None, True, [1, [2]], (1, 2), {"a": {"b": 1}}, torch.ones(2), Path("x"), torch.float32]
)  # fmt: skip
def test_what_is_plain_comes_back(value: Any, saved: Any) -> None:
    class Any_(Net):  # noqa: N801
        def __init__(self, thing: Any) -> None:
            super().__init__(3)
            self.save_hyperparameters()

    again = Any_.load_from_checkpoint(saved(Any_(value))).hparams.thing
    assert (
        torch.equal(again, value) if isinstance(value, torch.Tensor) else str(again) == str(value)
    )
