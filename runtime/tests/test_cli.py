"""LightningCLI: what its documentation promises, in process, on a model of six weights."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

from scaffold_runtime import LightningDataModule, LightningModule, Trainer
from scaffold_runtime.callbacks import EarlyStopping
from scaffold_runtime.cli import (
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerCallable,
    OptimizerCallable,
    ReduceLROnPlateau,
    SaveConfigCallback,
    instantiate_class,
)
from scaffold_runtime.errors import CheckpointError, MisconfigurationException

QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
    "max_epochs": 1,
}


class Unconfigured(LightningModule):
    """A model without `configure_optimizers`."""

    def __init__(self, lr: float = 0.1, width: int = 2, act: nn.Module | None = None) -> None:
        super().__init__()
        self.lr, self.width, self.act = lr, width, act
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)

    def step(self, batch: Any, name: str) -> Any:
        loss = self(batch[0]).pow(2).mean()
        self.log(name, loss)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(batch, "loss")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "val_loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "test_loss")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])


class Chooses(Unconfigured):
    """A model with arguments of several types."""

    def __init__(
        self,
        mode: int | Literal["x", "y"] = "x",
        table: dict[str, int] | None = None,
        optimizer: OptimizerCallable = SGD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)


class SmallModel(Unconfigured):
    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=self.lr)


class SmallData(LightningDataModule):
    def __init__(self, samples: int = 8, batch_size: int = 4) -> None:
        super().__init__()
        self.samples, self.batch_size, self.classes = samples, batch_size, 7

    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(self.samples, 2)), self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def cli(
    *args: str,
    model: Any = SmallModel,
    data: Any = SmallData,
    kind: type[LightningCLI] = LightningCLI,
    **kwargs: Any,
) -> Any:
    kwargs = {"trainer_defaults": QUIET, "save_config_kwargs": {"overwrite": True}, **kwargs}
    return kind(model, data, args=list(args), **kwargs)


def fails(capsys: pytest.CaptureFixture[str], *args: str, **kwargs: Any) -> str:
    """What is said about a wrong command line: one to three lines, exit code 2."""
    with pytest.raises(SystemExit) as left:
        cli(*args, **kwargs)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" not in said and said.startswith("error: ")
    assert len(said.strip().splitlines()) <= 3
    return said


# -- running ----------------------------------------------------------------------------------


def test_fit_trains_with_the_values_of_the_command_line() -> None:
    made = cli("fit", "--model.lr=0.2", "--data.samples=12", "--trainer.max_epochs", "2")
    assert made.trainer.global_step == 6
    assert made.model.lr == 0.2
    assert made.config.subcommand == "fit"
    assert made.config.fit.model.lr == 0.2
    assert made.config_dump["model"]["lr"] == 0.2
    assert made.config_dump["trainer"]["max_epochs"] == 2
    assert isinstance(made.parser, LightningArgumentParser)


@pytest.mark.parametrize(("name", "key"), [("validate", "val_loss"), ("test", "test_loss")])
def test_evaluation_subcommands(name: str, key: str) -> None:
    assert key in cli(name).returned[0]


def test_predict_returns_the_predictions() -> None:
    made = cli("predict")
    assert [p.shape for p in made.returned] == [(4, 2), (4, 2)]


def test_the_command_line_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", "fit", "--model.lr=0.25"])
    assert LightningCLI(SmallModel, SmallData, trainer_defaults=QUIET).model.lr == 0.25


def test_run_false_only_makes_the_objects() -> None:
    made = cli("--model.lr=0.3", run=False)
    assert made.subcommand is None
    assert made.trainer.global_step == 0
    made.trainer.fit(made.model, made.datamodule)
    assert made.trainer.global_step == 2


def test_values_as_a_dict() -> None:
    made = LightningCLI(
        SmallModel, SmallData, args={"model": {"lr": 0.9}}, run=False, trainer_defaults=QUIET
    )
    assert made.model.lr == 0.9
    values = {"subcommand": "fit", "fit": {"model": {"lr": 0.8}}}
    assert LightningCLI(SmallModel, SmallData, args=values, trainer_defaults=QUIET).model.lr == 0.8


def test_hooks_run_in_order() -> None:
    seen: list[str] = []

    class Told(LightningCLI):
        def before_instantiate_classes(self) -> None:
            seen.append(f"before classes {hasattr(self, 'model')}")

        def after_instantiate_classes(self) -> None:
            seen.append(f"after classes {hasattr(self, 'trainer')}")

        def before_fit(self) -> None:
            seen.append(f"before fit {self.trainer.global_step}")

        def after_fit(self) -> None:
            seen.append(f"after fit {self.trainer.global_step}")

        def before_test(self) -> None:
            seen.append("never")

    cli("fit", kind=Told)
    assert seen == ["before classes False", "after classes True", "before fit 0", "after fit 2"]


def test_a_subclass_may_run_a_subcommand_itself() -> None:
    """As public command lines compile their model."""

    class Compiles(LightningCLI):
        def fit(self, model: Any, **options: Any) -> None:
            assert options.keys() >= {"datamodule", "ckpt_path"}
            self.trainer.fit(torch.compile(model, backend="eager"), **options)
            self.compiled = True

    made = cli("fit", kind=Compiles)
    assert made.compiled and made.trainer.global_step == 2


def test_a_trainer_class_and_its_defaults() -> None:
    class Mine(Trainer):
        pass

    extra = EarlyStopping("val_loss")
    made = cli("fit", trainer_class=Mine, trainer_defaults={**QUIET, "callbacks": extra})
    assert type(made.trainer) is Mine
    assert extra in made.trainer.callbacks


def test_a_subcommand_of_ones_own() -> None:
    class Sweeps(Trainer):
        def sweep(self, model: Any, datamodule: Any = None, times: int = 1) -> Any:
            """Train again and again."""
            return times * datamodule.samples

    class WithSweep(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {**LightningCLI.subcommands(), "sweep": {"model", "datamodule"}}

    assert cli("sweep", "--times=3", kind=WithSweep, trainer_class=Sweeps).returned == 24


def test_a_subcommand_that_takes_no_data() -> None:
    class Counts(Trainer):
        def count(self, model: Any) -> int:
            """Count parameters."""
            return sum(parameter.numel() for parameter in model.parameters())

    class WithCount(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {**LightningCLI.subcommands(), "count": {"model"}}

    made = cli("count", kind=WithCount, trainer_class=Counts, data=None)
    assert made.returned == sum(p.numel() for p in made.model.parameters())


def test_only_the_chosen_subcommand_is_set_up() -> None:
    parsers = cli("test")._subparsers
    assert "--model.lr" in parsers["test"]._option_string_actions
    assert "--model.lr" not in parsers["fit"]._option_string_actions


def test_a_function_in_place_of_the_model() -> None:
    def make(rate: float = 0.4) -> SmallModel:
        return SmallModel(lr=rate)

    assert cli("fit", "--model.rate=0.6", model=make).model.lr == 0.6


@pytest.mark.parametrize(("default", "seed"), [(3, 3), (True, 0)])
def test_the_seed_is_kept_in_the_configuration(default: Any, seed: int) -> None:
    made = cli("fit", seed_everything_default=default)
    assert made.config.fit.seed_everything == seed
    assert torch.initial_seed() == seed


def test_no_seed() -> None:
    torch.manual_seed(123)
    cli("fit", "--seed_everything=false")
    assert torch.initial_seed() == 123


# -- files ------------------------------------------------------------------------------------


def test_later_files_and_options_win() -> None:
    Path("a.yaml").write_text("trainer: {max_epochs: 2}\nmodel: {lr: 0.5, width: 5}\n")
    Path("b.yaml").write_text("model: {lr: 0.6}\n")
    made = cli("fit", "--config", "a.yaml", "--config=b.yaml", "--model.width=9")
    assert (made.trainer.max_epochs, made.model.lr, made.model.width) == (2, 0.6, 9)


@pytest.mark.parametrize("text", ["", "# trainer:\n#   max_epochs: 3\n"])
def test_a_file_without_settings(text: str) -> None:
    Path("none.yaml").write_text(text)
    assert cli("fit", "--config=none.yaml").trainer.max_epochs == 1


def test_a_file_before_the_subcommand() -> None:
    Path("all.yaml").write_text("fit: {model: {lr: 0.7}}\n")
    assert cli("--config", "all.yaml", "fit").model.lr == 0.7


def test_parser_arguments_per_subcommand() -> None:
    Path("a.yaml").write_text("model: {lr: 0.5}\n")
    files = {"default_config_files": ["a.yaml"]}
    assert cli("fit", parser_kwargs={"fit": files}).model.lr == 0.5
    assert cli("fit", parser_kwargs={"test": files}).model.lr == 0.1
    assert cli(run=False, parser_kwargs=files).model.lr == 0.5


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_FIT__MODEL__LR", "0.125")
    assert cli("fit", parser_kwargs={"default_env": True}).model.lr == 0.125
    assert cli("fit").model.lr == 0.1


def test_print_config_is_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli("fit", "--model.lr=0.75", "--print_config")
    assert left.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert cli("fit", "--config=printed.yaml").model.lr == 0.75


def test_a_config_may_be_a_text_longer_than_any_path() -> None:
    assert cli("fit", f"--config={{model: {{lr: 0.75}}}}  # {'why ' * 100}").model.lr == 0.75


def test_the_configuration_is_saved_before_training_and_replays() -> None:
    class Looks(SmallModel):
        def on_train_start(self) -> None:
            assert Path("runs/config.yaml").is_file()

    settings = {**QUIET, "default_root_dir": "runs"}
    first = cli("fit", "--model.lr=0.3", "--trainer.callbacks+=EarlyStopping",
                "--trainer.callbacks.monitor=val_loss", model=Looks, trainer_defaults=settings)  # fmt: skip
    again = cli("fit", "--config=runs/config.yaml", save_config_callback=None)
    assert again.model.lr == 0.3
    assert torch.equal(again.model.layer.weight, first.model.layer.weight)
    assert [c.monitor for c in again.trainer.early_stopping_callbacks] == ["val_loss"]


def test_a_saved_configuration_is_not_overwritten() -> None:
    cli("fit", save_config_kwargs={})
    with pytest.raises(MisconfigurationException, match=r"config\.yaml exists"):
        cli("fit", save_config_kwargs={})
    cli("fit")


def test_a_resumed_run_keeps_one_configuration_that_begins_anew() -> None:
    def fit(*words: str) -> LightningCLI:
        settings = {**QUIET, "logger": True, "enable_checkpointing": True}
        return cli("fit", *words, trainer_defaults=settings, save_config_kwargs={})

    fit()
    resumed = fit("--ckpt_path=last", "--trainer.max_epochs=2")
    place = Path(resumed.trainer.log_dir)
    saved = yaml.safe_load((place / "config.yaml").read_text())
    assert (place.name, saved["ckpt_path"], saved["trainer"]["max_epochs"]) == (
        "version_0",
        None,
        2,
    )
    assert (place / "config.replaced.yaml").is_file()
    again = fit(f"--config={place}/config.yaml")
    assert (Path(again.trainer.log_dir).name, again.trainer.global_step) == ("version_1", 4)


def test_evaluation_leaves_nothing_behind_unless_it_logs() -> None:
    cli("validate"), cli("predict"), cli("fit", "--trainer.fast_dev_run=true")
    assert not Path("config.yaml").exists()
    logging = {**QUIET, "logger": True}
    cli("test", trainer_defaults=logging)
    assert len(list(Path().glob("*/version_0/config.yaml"))) == 1


def test_a_saving_callback_of_ones_own() -> None:
    class Elsewhere(SaveConfigCallback):
        def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
            Path("elsewhere.yaml").write_text(self.parser.dump(self.config))

    cli("fit", save_config_callback=Elsewhere, save_config_kwargs={"save_to_log_dir": False})
    assert yaml.safe_load(Path("elsewhere.yaml").read_text())["model"]["lr"] == 0.1
    assert not Path("config.yaml").exists()
    with pytest.raises(MisconfigurationException, match="saves nothing"):
        cli("fit", save_config_kwargs={"save_to_log_dir": False})


# -- classes ----------------------------------------------------------------------------------


def test_subclass_modes() -> None:
    base: dict[str, Any] = {"model": Unconfigured, "data": LightningDataModule}
    base |= {"subclass_mode_model": True, "subclass_mode_data": True}
    made = cli("fit", "--model=SmallModel", "--model.lr=0.3", "--data=SmallData", "--data.samples=12",
               **base)  # fmt: skip
    assert type(made.model) is SmallModel and made.model.lr == 0.3
    assert type(made.datamodule) is SmallData and made.datamodule.samples == 12


def test_without_classes_any_are_accepted() -> None:
    path = f"{SmallModel.__module__}.SmallModel"
    made = LightningCLI(args=["--model", path, "--model.lr=0.4"], run=False, trainer_defaults=QUIET)
    assert type(made.model) is SmallModel and made.model.lr == 0.4
    assert made.datamodule is None


def test_nested_classes() -> None:
    made = cli("fit", "--model.act=torch.nn.LeakyReLU", "--model.act.negative_slope=0.25")
    assert made.model.act.negative_slope == 0.25


def test_an_argument_may_have_any_name() -> None:
    class Named(SmallModel):
        def __init__(self, kind: str = "a", given: int = 1, key: int = 2) -> None:
            super().__init__()
            self.kind = kind

    assert cli("--model.kind=b", model=Named, run=False).model.kind == "b"


def test_callbacks_by_bare_name_and_as_arguments() -> None:
    class Stops(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_lightning_class_args(EarlyStopping, "stop")
            parser.set_defaults({"stop.monitor": "val_loss", "stop.patience": 9})

    made = cli("fit", "--stop.patience=4", "--trainer.callbacks+=Timer",
               "--trainer.callbacks.duration=00:01:00:00", kind=Stops)  # fmt: skip
    assert [c.patience for c in made.trainer.early_stopping_callbacks] == [4]
    assert "Timer" in [type(c).__name__ for c in made.trainer.callbacks]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "--trainer.profiler=SimpleProfiler --trainer.strategy FSDPStrategy "
            "--trainer.strategy.cpu_offload=true --trainer.plugins=AsyncCheckpointIO",
            ["SimpleProfiler", "FSDPStrategy", "AsyncCheckpointIO"],
        ),
        (
            '--trainer.profiler {"class_path":"AdvancedProfiler"} --trainer.strategy=DDPStrategy '
            "--trainer.plugins+=AsyncCheckpointIO",
            ["AdvancedProfiler", "DDPStrategy", "AsyncCheckpointIO"],
        ),
        (
            "--trainer.strategy=scaffold_runtime.strategies.DDPStrategy "
            "--trainer.plugins=scaffold_runtime.plugins.AsyncCheckpointIO",
            ["PassThroughProfiler", "DDPStrategy", "AsyncCheckpointIO"],
        ),
    ],
)
def test_classes_of_the_trainer_by_name(words: str, shown: list[str]) -> None:
    """In a process of its own: what another test imported would be known here."""
    program = (
        "from scaffold_runtime.cli import LightningCLI\n"
        "from scaffold_runtime.demos.boring_classes import BoringModel\n"
        "made = LightningCLI(BoringModel, run=False, trainer_defaults={'accelerator': 'cpu'})\n"
        "trainer = made.trainer\n"
        "parts = trainer.profiler, trainer.strategy, trainer.checkpoint_io\n"
        "print([type(part).__name__ for part in parts])\n"
    )
    call = [sys.executable, "-c", program, *words.split()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=100)
    assert str(shown) in done.stdout, done.stderr


def test_links_at_parsing_and_at_instantiation() -> None:
    class Linked(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("data.batch_size", "model.width")

    class LinkedLater(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("data.classes", "model.width", apply_on="instantiate")

    assert cli("fit", "--data.batch_size=2", kind=Linked).model.width == 2
    assert cli("fit", kind=LinkedLater, save_config_kwargs={"overwrite": True}).model.width == 7


def test_only_our_classes_get_lightning_arguments() -> None:
    class Wrong(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_lightning_class_args(dict, "wrong")

    with pytest.raises(MisconfigurationException, match="add_lightning_class_args"):
        cli("fit", kind=Wrong)


# -- optimizers -------------------------------------------------------------------------------


def test_optimizer_and_scheduler_from_the_command_line() -> None:
    made = cli("fit", "--optimizer=Adam", "--optimizer.lr=0.01", "--lr_scheduler=ExponentialLR",
               "--lr_scheduler.gamma=0.5", model=Unconfigured)  # fmt: skip
    (optimizer,) = made.trainer.optimizers
    assert isinstance(optimizer, Adam) and optimizer.param_groups[0]["initial_lr"] == 0.01
    assert optimizer.param_groups[0]["lr"] == 0.005


def test_a_plateau_scheduler_knows_its_monitor() -> None:
    made = cli("fit", "--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=ReduceLROnPlateau",
               "--lr_scheduler.monitor=val_loss", model=Unconfigured)  # fmt: skip
    (config,) = made.trainer.lr_scheduler_configs
    assert isinstance(config.scheduler, ReduceLROnPlateau) and config.monitor == "val_loss"


def test_classes_of_optimizer_and_scheduler_may_be_fixed() -> None:
    class Fixed(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(Adam)
            parser.add_lr_scheduler_args(ExponentialLR)

    made = cli("fit", "--optimizer.lr=0.5", "--lr_scheduler.gamma=0.1", model=Unconfigured,
               kind=Fixed)  # fmt: skip
    assert made.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_an_optimizer_linked_to_an_argument() -> None:
    class Two(Unconfigured):
        def __init__(self, first: dict[str, Any], second: dict[str, Any]) -> None:
            super().__init__()
            self.first, self.second = first, second

        def configure_optimizers(self) -> Any:
            assert self.second["class_path"] == "torch.optim.SGD"
            return instantiate_class(self.parameters(), self.first)

    class Linked(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(Adam, "one", link_to="model.first")
            parser.add_optimizer_args((Adam, SGD), "two", link_to="model.second")

    made = cli("fit", "--one.lr=0.25", "--two=SGD", "--two.lr=0.5", model=Two, kind=Linked)
    assert isinstance(made.trainer.optimizers[0], Adam)
    assert made.trainer.optimizers[0].param_groups[0]["lr"] == 0.25


class Injected(Unconfigured):
    def __init__(
        self, optimizer: OptimizerCallable = Adam, scheduler: LRSchedulerCallable = ConstantLR
    ) -> None:
        super().__init__()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}


def test_an_optimizer_injected_as_a_callable() -> None:
    made = cli("fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.4", model=Injected)
    (optimizer,) = made.trainer.optimizers
    assert isinstance(optimizer, SGD) and optimizer.param_groups[0]["initial_lr"] == 0.4
    assert isinstance(made.trainer.lr_scheduler_configs[0].scheduler, ConstantLR)


def test_replacing_configure_optimizers_is_said() -> None:
    with pytest.warns(UserWarning, match=r"not SmallModel\.configure_optimizers"):
        made = cli("fit", "--optimizer=Adam")
    assert isinstance(made.trainer.optimizers[0], Adam)


def test_optimizers_that_contradict() -> None:
    class TwoAutomatic(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(Adam, "one")
            parser.add_optimizer_args(SGD, "two")

    with pytest.raises(MisconfigurationException, match="one, two"):
        cli("fit", "--two.lr=0.1", model=Unconfigured, kind=TwoAutomatic)
    with pytest.raises(MisconfigurationException, match="needs an optimizer"):
        cli("fit", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.5", model=Unconfigured)


def test_the_configuration_of_a_training_is_read_by_the_other_subcommands() -> None:
    cli("fit", "--model.lr=0.3")
    assert cli("test", "--config=config.yaml", save_config_callback=None).model.lr == 0.3


def test_optimizers_only_where_they_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "fit", "--optimizer=Adam", auto_configure_optimizers=False)
    assert "unknown option --optimizer" in said


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.lrr=3", "--model.lrr. Did you mean `--model.lr`?"),
        ("--model.lr=x", "model.lr: expected float, got 'x'"),
        ("--trainer.max_epoch=3", "Did you mean `--trainer.max_epochs`?"),
        ("--trainer.max_epochs=x", "trainer.max_epochs: expected int or null, got 'x'"),
        ("--optimizer=Adm", "optimizer: Adm is not the path of a class"),
        (
            "--model.act=torch.nn.LeakyRelu",
            "torch.nn has no `LeakyRelu`. Did you mean `LeakyReLU`?",
        ),
        ("--model.act=nowhere.Act", "there is no module `nowhere`"),
        ("--config=none.yaml", "there is no file"),
        ("--lr=1", "unknown option --lr. Did you mean `--model.lr`?"),
        ("--trainer.callbacks+=EarlyStoping", "Did you mean `EarlyStopping`?"),
        ("--model.mode=z", "model.mode: expected int or 'x' or 'y', got 'z'"),
        ('--model.table={"a": "b"}', "model.table: expected dict[str, int] or null, got \"{'a': "),
        ("--model.optimizer=nowhere.Adam", "model.optimizer: there is no module `nowhere`"),
        (
            "--trainer.logger.save_dir=x",
            "name a class that takes it first, as in --trainer.logger CLASS",
        ),
        ("--optimizer.lr=0.1", "optimizer.lr: name a class that takes it first"),
        (
            '--trainer.callbacks=[{"class_path": "EarlyStopping", "monitor": "a"}]',
            "trainer.callbacks.monitor. Arguments of EarlyStopping stand below init_args.",
        ),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert said in fails(capsys, "fit", option, model=Chooses)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  lrr: 3\n", "model.lrr (in a.yaml). Did you mean `model.lr`?"),
        ("model:\n  lr: x\n", "model.lr (in a.yaml): expected float, got 'x'"),
        ("model:\n\tlr: 3\n", "a.yaml, line 2: YAML is indented with spaces"),
        ("model:\n  lr: [3\n", "a.yaml, line 3, column 1"),
        ("- 3\n", "a.yaml holds a list"),
        (
            "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {patienc: 3}\n",
            "trainer.callbacks.patienc (in a.yaml). EarlyStopping does not take it. "
            "Did you mean `trainer.callbacks.patience`?",
        ),
    ],
)
def test_a_wrong_file_is_named(capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    Path("a.yaml").write_text(text)
    assert said in fails(capsys, "fit", "--config=a.yaml")


def test_a_file_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("model:\n  lr: 0.1\n")
    said = fails(capsys, "--config=a.yaml", "fit")
    assert "model.lr (in a.yaml) belongs to a command: give the file after the command" in said


def test_a_wrong_value_inside_one_of_several_types(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "fit", "--trainer.callbacks+=EarlyStopping",
                 "--trainer.callbacks.monitor=v", "--trainer.callbacks.patience=x")  # fmt: skip
    assert "trainer.callbacks.patience: expected int, got 'x'" in said


def test_a_wrong_or_missing_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean `fit`?" in fails(capsys, "fitt")
    assert "subcommand" in fails(capsys)


def test_help_of_everything_and_of_one_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli("--help")
    assert "predict" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    assert "--model.lr" in capsys.readouterr().out


def test_nothing_deprecated_is_used() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cli("fit", "--optimizer=SGD", "--optimizer.lr=0.1", model=Unconfigured)


class Saved(Injected):
    """Keeps what it was made with, as Lightning's pages on injected classes do."""

    def __init__(
        self,
        optimizer: OptimizerCallable = Adam,
        act: nn.Module | None = None,
        sizes: list[int] = [3],  # noqa: B006 - as people write it
        parts: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(optimizer)
        self.save_hyperparameters()
        self.act, self.parts = act, parts


def test_injected_objects_are_saved_as_they_were_configured(tmp_path: Path) -> None:
    made = cli(
        "fit", "--model.optimizer=SGD", "--model.optimizer.lr=0.4", "--model.act=torch.nn.ELU",
        '--model.parts=[{"class_path": "torch.nn.Tanh"}]', "--trainer.max_epochs=1", model=Saved,
    )  # fmt: skip
    assert isinstance(made.model.hparams.act, nn.ELU)
    made.trainer.save_checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert kept["act"]["class_path"] == "torch.nn.ELU"
    assert kept["optimizer"]["class_path"] == "torch.optim.SGD"
    assert kept["optimizer"]["init_args"]["lr"] == 0.4
    assert kept["parts"][0]["class_path"] == "torch.nn.Tanh"
    assert kept["sizes"] == [3]
    with pytest.raises(CheckpointError, match=r"`act` was made by .*torch\.nn\.ELU.*act=\.\.\."):
        Saved.load_from_checkpoint(tmp_path / "a.ckpt")
    loaded = Saved.load_from_checkpoint(
        tmp_path / "a.ckpt", act=nn.ELU(), optimizer=SGD, parts=None
    )
    assert loaded.hparams.sizes == [3]


def test_defaults_that_are_objects_are_saved_too() -> None:
    made = cli("fit", model=Saved)
    made.trainer.save_checkpoint("b.ckpt")
    kept = torch.load("b.ckpt", weights_only=True)["hyper_parameters"]
    assert "Adam" in str(kept["optimizer"]) and kept["act"] is None
