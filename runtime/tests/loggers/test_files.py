"""CSVLogger and TensorBoardLogger: what lies on disk, read back by other readers than ours."""

from __future__ import annotations

import csv
import enum
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from scaffold_runtime.callbacks import LambdaCallback
from scaffold_runtime.errors import MisconfigurationException, MissingExtra
from scaffold_runtime.loggers import CSVLogger, TensorBoardLogger


def rows(file: str | Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def events(folder: str | Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder: str | Path, tag: str) -> list[tuple[int, float]]:
    accumulator = events(folder)
    return [(e.step, e.value) for e in accumulator.Scalars(tag)]


class Color(enum.Enum):
    RED = "red"


ODD = {
    "lr": 0.1,
    "path": Path("a/b"),
    "color": Color.RED,
    "nested": {"depth": np.int64(3), "flag": True},
    "pair": (1, 2),
    "tensor": torch.ones(1),
    "nothing": None,
    "share": np.float64(0.5),
}


# -- CSV ------------------------------------------------------------------------------------------


def test_csv_appends_and_grows_columns() -> None:
    logger = CSVLogger("logs", "exp")
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    inode = logger.file.stat().st_ino
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.save()
    assert logger.file.stat().st_ino == inode  # appended, not written anew
    logger.log_metrics({"loss": 0.25, "acc": 0.75}, step=2)
    logger.log_metrics({"acc": 0.8}, step=3)
    logger.finalize("success")

    assert rows(logger.file) == [
        {"step": "0", "loss": "1.0", "acc": ""},
        {"step": "1", "loss": "0.5", "acc": ""},
        {"step": "2", "loss": "0.25", "acc": "0.75"},
        {"step": "3", "loss": "", "acc": "0.8"},
    ]


def test_csv_holds_rows_back_until_there_are_enough() -> None:
    logger = CSVLogger("logs", flush_logs_every_n_steps=3)
    for step in range(5):
        logger.log_metrics({"x": float(step)}, step)

    assert len(rows(logger.file)) == 3
    logger.save()
    assert len(rows(logger.file)) == 5


def test_csv_keeps_what_another_process_wrote() -> None:
    for part in range(3):
        logger = CSVLogger("logs", "exp", version="same")
        logger.log_metrics({"loss": float(part), f"part_{part}": 1.0}, step=part)
        logger.save()

    assert [row["loss"] for row in rows("logs/exp/same/metrics.csv")] == ["0.0", "1.0", "2.0"]


def test_csv_prefix_and_versions() -> None:
    loggers = [CSVLogger("logs", prefix="big") for _ in range(3)]
    assert [logger.version for logger in loggers] == [0, 1, 2]
    loggers[0].log_metrics({"loss": 1.0, "epoch": 0}, 0)
    loggers[0].save()

    assert rows(loggers[0].file)[0] == {"epoch": "0", "step": "0", "big-loss": "1.0"}
    assert CSVLogger("logs", "").log_dir == "logs/version_0"


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
@pytest.mark.parametrize("given", [ODD, Namespace(**ODD)])
def test_hyperparameters_are_plain_yaml(given: Any, kind: Any) -> None:
    logger = kind("logs")
    logger.log_hyperparams(given)
    logger.finalize("success")

    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {
        "lr": 0.1,
        "path": "a/b",
        "color": "red",
        "nested": {"depth": 3, "flag": True},
        "pair": [1, 2],
        "tensor": "tensor([1.])",
        "nothing": None,
        "share": 0.5,
    }


def test_csv_goes_on_in_the_same_file_when_resumed(regression, make_loader, make_trainer) -> None:
    def train(epochs: int, **arguments: Any) -> None:
        trainer = make_trainer(max_epochs=epochs, logger=CSVLogger("logs", "exp", "mine"))
        trainer.fit(regression(), make_loader(3), make_loader(1), **arguments)
        trainer.save_checkpoint("end.ckpt")

    train(2)
    before = Path("logs/exp/mine/metrics.csv").read_text()
    train(3, ckpt_path="end.ckpt")

    after = Path("logs/exp/mine/metrics.csv").read_text()
    assert after.startswith(before)
    assert [row["step"] for row in rows("logs/exp/mine/metrics.csv") if row["loss"]] == list(
        map(str, range(9))
    )


def test_csv_tensors_are_numbers() -> None:
    logger = CSVLogger("logs")
    logger.log_metrics({"loss": torch.tensor(1.5)}, 0)
    logger.save()

    assert rows(logger.file) == [{"step": "0", "loss": "1.5"}]


@pytest.mark.parametrize("torn", ["2,0.2", "2", "st"])
def test_csv_cuts_off_a_row_that_a_kill_cut_short(torn: str) -> None:
    whole = "step,loss\n1,0.5\n" if torn != "st" else ""
    logger = CSVLogger("logs", version="mine")
    logger.file.parent.mkdir(parents=True)
    logger.file.write_text(whole + torn)
    logger.log_metrics({"loss": 0.25}, 2)
    logger.save()

    before = [{"step": "1", "loss": "0.5"}] if whole else []
    assert rows(logger.file) == [*before, {"step": "2", "loss": "0.25"}]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_tilde_is_the_home_folder(kind: Any, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    logger = kind("~/logs")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")

    assert len(list(Path("home/logs/lightning_logs/version_0").iterdir())) == 1


def test_csv_survives_a_kill_while_columns_grow(monkeypatch) -> None:
    logger = CSVLogger("logs")
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaffold_runtime.loggers.csv_logs.os.replace", die)
    logger.log_metrics({"b": 1.0}, 1)
    with pytest.raises(KeyboardInterrupt):
        logger.save()

    assert rows(logger.file) == [{"step": "0", "a": "1.0"}]


# -- TensorBoard ----------------------------------------------------------------------------------


def test_tensorboard_scalars_are_read_back(regression, make_loader, make_trainer) -> None:
    logger = TensorBoardLogger("logs", "exp")
    seen: list[float] = []
    note = LambdaCallback(on_train_batch_end=lambda t, m, out, *_: seen.append(float(out["loss"])))
    trainer = make_trainer(logger=logger, max_epochs=2, callbacks=note)
    trainer.fit(regression(), make_loader(3), make_loader(2))

    assert logger.log_dir == "logs/exp/version_0"
    assert scalars(logger.log_dir, "loss") == [(i, pytest.approx(v)) for i, v in enumerate(seen)]
    assert [step for step, _ in scalars(logger.log_dir, "val_loss")] == [2, 5]
    assert {value for _, value in scalars(logger.log_dir, "epoch")} == {0.0, 1.0}


def test_tensorboard_hyperparameters_are_read_back() -> None:
    logger = TensorBoardLogger("logs", default_hp_metric=True)
    logger.log_hyperparams(ODD)
    logger.log_hyperparams({"late": 1}, {"best": 0.9}, step=7)
    logger.finalize("success")

    data = events(logger.log_dir).summary_metadata["_hparams_/session_start_info"]
    content = plugin_data_pb2.HParamsPluginData.FromString(data.plugin_data.content)
    hparams = content.session_start_info.hparams
    assert hparams["lr"].number_value == 0.1
    assert hparams["nested/flag"].number_value == 1.0  # torch writes booleans as numbers
    assert hparams["path"].string_value == "a/b"
    assert scalars(logger.log_dir, "hp_metric") == [(0, -1.0)]
    assert scalars(logger.log_dir, "best") == [(7, pytest.approx(0.9))]


def test_tensorboard_draws_a_dict_as_several_lines_of_one_chart() -> None:
    logger = TensorBoardLogger("logs")
    logger.log_metrics({"loss": {"train": 1.0, "val": 2.0}}, 3)  # type: ignore[dict-item]
    logger.finalize("success")

    assert scalars(f"{logger.log_dir}/loss_train", "loss") == [(3, 1.0)]
    assert scalars(f"{logger.log_dir}/loss_val", "loss") == [(3, 2.0)]


def test_tensorboard_graph_and_histograms(regression, make_loader, make_trainer) -> None:
    class Drawn(regression):
        example_input_array = torch.ones(2, 4)

        def __init__(self) -> None:
            super().__init__()
            self.net[0].eval()  # as a frozen backbone is

        def on_train_epoch_end(self) -> None:
            for name, weight in self.named_parameters():
                self.logger.experiment.add_histogram(name, weight, self.current_epoch)

    logger = TensorBoardLogger("logs", log_graph=True, sub_dir="part")
    module = Drawn()
    make_trainer(logger=logger, max_epochs=2).fit(module, make_loader(3))

    read = events(logger.log_dir)
    assert logger.log_dir.endswith("version_0/part")
    names = {node.name for node in read.Graph().node}
    assert any("Linear" in name for name in names)
    assert [e.step for e in read.Histograms("net.0.weight")] == [0, 1]
    assert module.training and not module.net[0].training


def test_tensorboard_graph_of_a_module_elsewhere(regression, make_trainer) -> None:
    """On a GPU, say; under FSDP torch cannot trace it, and training goes on without."""

    class Elsewhere(regression):
        device, forwards = torch.device("meta"), 0

        def forward(self, x):
            assert x.is_meta
            self.forwards += 1
            return super().forward(x)

    logger, module = TensorBoardLogger("logs", log_graph=True), Elsewhere().to("meta")
    module.trainer = make_trainer()
    logger.log_graph(module, torch.ones(2, 4))
    drawn = module.forwards
    module._divider = "FSDP"
    with pytest.warns(match="no graph is logged, since FSDP shards the weights"):
        logger.log_graph(module, torch.ones(2, 4))
    assert module.forwards == drawn > 0


def test_tensorboard_prefix_and_several_fits(regression, make_loader, make_trainer) -> None:
    logger = TensorBoardLogger("logs", prefix="big", default_hp_metric=False)
    trainer = make_trainer(logger=logger)
    module = regression()
    trainer.fit(module, make_loader(3))
    trainer.test(module, make_loader(3), verbose=False)

    assert len(scalars(logger.log_dir, "big-loss")) == 3
    assert len(scalars(logger.log_dir, "big-test_loss")) == 1


def test_a_missing_package_says_what_to_install(
    regression, make_loader, make_trainer, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match="TensorBoardLogger needs the package `tensorboard`"):
        TensorBoardLogger("logs").log_hyperparams({"lr": 1})
    trainer = make_trainer(logger=TensorBoardLogger("logs"))

    with pytest.raises(MissingExtra, match=r'pip install "scaffold-runtime\[tensorboard\]"'):
        trainer.fit(regression(), make_loader(1))


@pytest.mark.parametrize(
    ("name", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")]
)
def test_missing_services_say_what_to_install(name: str, package: str, monkeypatch) -> None:
    from scaffold_runtime import loggers

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf'pip install "scaffold-runtime\[{package}\]"'):
        getattr(loggers, name)()


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_run_that_is_refused_leaves_no_empty_folder(
    kind: Any, regression: Any, make_loader: Any, make_trainer: Any
) -> None:
    """And what an earlier one logged, or the user's own empty folder, stays."""

    class Refused(regression):
        def configure_optimizers(self) -> Any:
            return "none"

    def fit(module: Any, **given: Any) -> None:
        make_trainer(logger=kind("logs", "", **given), enable_checkpointing=True).fit(
            module, make_loader(1)
        )

    fit(regression())
    Path("logs/mine").mkdir()
    for given in ({}, {"version": "mine"}):
        with pytest.raises(MisconfigurationException, match="returned a str"):
            fit(Refused(), **given)
    assert sorted(folder.name for folder in Path("logs").iterdir()) == ["mine", "version_0"]
