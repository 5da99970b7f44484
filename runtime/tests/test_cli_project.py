"""`run`: the command line of a generated project, over a small project that the test writes."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import scaffold_runtime
from scaffold_runtime import LightningDataModule, LightningModule
from scaffold_runtime.cli import run
from scaffold_runtime.cli.sources import ConfigError, read_yaml
from scaffold_runtime.errors import hide_passwords, plain_errors, plain_imports

CALLBACKS = "scaffold_runtime.callbacks"
FILES = {
    "trainer.yaml": "max_epochs: 2\nenable_model_summary: false\nenable_progress_bar: false\n"
    "log_every_n_steps: 1\n",
    "model.yaml": "# the model\nlr: 0.5\n",
    "data.yaml": "",
    "callbacks/early_stopping.yaml": f"class_path: {CALLBACKS}.EarlyStopping\n"
    "init_args:\n  monitor: val_loss\n",
    "callbacks/model_checkpoint.yaml": f"class_path: {CALLBACKS}.ModelCheckpoint\n"
    "init_args:\n  monitor: val_loss\n",
    "loggers/csv.yaml": "class_path: scaffold_runtime.loggers.CSVLogger\n"
    'init_args:\n  save_dir: runs\n  name: ""\n',
}


class Model(LightningModule):
    def __init__(self, lr: float = 0.1, width: int = 2) -> None:
        super().__init__()
        self.lr = lr
        self.layer = nn.Linear(2, width)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)

    def step(self, batch: Any, name: str) -> Any:
        loss = self(batch[0]).pow(2).mean()
        self.log(name, loss)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(batch, "train_loss")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "val_loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch, "test_loss")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(10, 2)), self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class Wide(Model):
    def __init__(self, width: int = 3) -> None:
        super().__init__(0.01, width)


class Fours(Data):
    def __init__(self, count: int = 4) -> None:
        super().__init__(count)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder of its own, called from another one."""
    folder = tmp_path / "project"
    for name, text in FILES.items():
        (folder / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "configs" / name).write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "argv", [str(folder / "train.py")])
    return folder


def train(project: Path, *args: str, model: Any = Model) -> Any:
    return run(model, Data, project / "configs", list(args))


def fails(
    project: Path, capsys: pytest.CaptureFixture[str], *args: str, code: int = 2, model: Any = Model
) -> str:
    with pytest.raises(SystemExit) as left:
        train(project, *args, model=model)
    said = capsys.readouterr().err
    assert left.value.code == code
    assert "Traceback" not in said and said.startswith("error: ")
    assert len(said.strip().splitlines()) <= 3
    return said


# -- what runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["fit"]])
def test_fit_with_what_is_in_configs(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    cli = train(project, *command)
    assert cli.trainer.current_epoch == 2 and cli.model.lr == 0.5
    assert [c.patience for c in cli.trainer.early_stopping_callbacks] == [3]
    folder = project / "runs" / "version_0"
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= {p.name for p in folder.iterdir()}
    said = capsys.readouterr().out.splitlines()
    assert len(said) <= 12
    table = dict(line.split("  ", 1) for line in said)
    assert float(table["val_loss"]) < 1
    assert Path(table["run folder"].strip()).samefile(folder)
    assert Path(table["best checkpoint"].strip()).is_file()
    assert table["next"].strip() == "python ../project/train.py test --ckpt_path best"
    assert list(Path().iterdir()) == []  # nothing is left where it was started


def test_options_go_before_files(project: Path) -> None:
    Path("other.yaml").write_text("trainer: {max_epochs: 5}\nmodel: {lr: 0.25}\n")
    cli = train(
        project, "--config", "other.yaml", "--trainer.max_epochs=1", "--data.batch_size", "5",
        "--callbacks.early_stopping.patience", "7", "--seed_everything=7",
    )  # fmt: skip
    assert (cli.trainer.max_epochs, cli.model.lr, cli.datamodule.batch_size) == (1, 0.25, 5)
    assert cli.trainer.early_stopping_callback.patience == 7
    assert torch.initial_seed() == 7


def test_a_file_of_options_keeps_the_rest_of_configs(project: Path) -> None:
    Path("patient.yaml").write_text("callbacks: {early_stopping: {init_args: {patience: 8}}}\n")
    cli = train(project, "--config=patient.yaml")
    assert cli.trainer.early_stopping_callback.patience == 8
    assert cli.trainer.early_stopping_callback.monitor == "val_loss"
    assert cli.trainer.checkpoint_callback.monitor == "val_loss"


def test_callbacks_are_switched_by_name(project: Path) -> None:
    cli = train(project, "--callbacks.early_stopping=null", "--callbacks.time=Timer",
                "--callbacks.time.duration=00:01:00:00")  # fmt: skip
    names = [type(c).__name__ for c in cli.trainer.callbacks]
    assert "EarlyStopping" not in names and "Timer" in names and "ModelCheckpoint" in names


def test_removing_a_file_switches_off(project: Path) -> None:
    shutil.rmtree(project / "configs/callbacks")
    shutil.rmtree(project / "configs/loggers")
    cli = train(project)
    assert not cli.trainer.loggers and cli.trainer.early_stopping_callback is None
    assert (project / "runs/config.yaml").is_file()
    train(project)  # again, over what is there


def test_loggers_can_be_silenced(project: Path) -> None:
    assert train(project, "--trainer.logger=false").trainer.loggers == []


def test_a_saved_configuration_replays_exactly(project: Path) -> None:
    first = train(project, "--model.lr=0.3", "--callbacks.early_stopping.patience=6",
                  "--seed_everything=5")  # fmt: skip
    (project / "configs/model.yaml").write_text("lr: 7.0\n")
    later = f"class_path: {CALLBACKS}.Timer\ninit_args: {{duration: '00:00:00:00'}}\n"
    (project / "configs/callbacks/timer.yaml").write_text(later)
    again = train(project, "--config", "../project/runs/version_0/config.yaml")
    assert again.model.lr == 0.3
    assert torch.equal(again.model.layer.weight, first.model.layer.weight)
    kinds = [[type(c) for c in cli.trainer.callbacks] for cli in (first, again)]
    assert kinds[0] == kinds[1]
    saved = [
        yaml.safe_load((project / f"runs/version_{n}/config.yaml").read_text()) for n in (0, 1)
    ]
    assert saved[0] == saved[1]


def test_files_are_written_and_read_as_utf8_whatever_the_machine_has(project: Path) -> None:
    """In a process of its own, where asking the machine for its encoding is an error."""
    (project / "train.py").write_text(textwrap.dedent("""
        from scaffold_runtime.cli import run
        from scaffold_runtime.demos.boring_classes import BoringDataModule, BoringModel

        class Model(BoringModel):
            def __init__(self, letter: str = "") -> None:
                super().__init__()
                self.save_hyperparameters()

            def training_step(self, batch, batch_idx):
                self.log(f"{self.hparams.letter}_loss", 1.0)
                return super().training_step(batch, batch_idx)

        if __name__ == "__main__":
            run(Model, BoringDataModule)
    """))
    shutil.rmtree(project / "configs/callbacks")
    (project / "configs/model.yaml").write_text("letter: Δ\n", encoding="utf-8")
    strict = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    again = "--config=runs/version_0/config.yaml"
    for words in (["--trainer.max_steps=2"], [again]):
        done = subprocess.run(
            [*strict, "train.py", *words], cwd=project, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr

    for run_ in ("runs/version_0", "runs/version_1"):
        for name in ("config.yaml", "metrics.csv"):
            assert "Δ" in (project / run_ / name).read_text(encoding="utf-8"), (run_, name)


def test_a_saved_configuration_without_callbacks_replays_without(project: Path) -> None:
    train(project, "--callbacks.early_stopping=null", "--callbacks.model_checkpoint=null")
    cli = train(project, "--config=../project/runs/version_0/config.yaml")
    assert cli.trainer.early_stopping_callback is None


def test_print_config_replays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        train(project, "--model.lr=0.125", "--print_config")
    assert left.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert not (project / "runs").exists()
    assert train(project, "--config=printed.yaml").model.lr == 0.125


def test_no_secret_of_the_environment_is_saved(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    train(project)
    assert "very-secret" not in (project / "runs/version_0/config.yaml").read_text()


def test_no_password_of_an_address_is_saved_or_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (project / "configs/loggers/mlflow.yaml").write_text(
        "class_path: scaffold_runtime.loggers.MLFlowLogger\n"
    )
    report = "class_path: scaffold_runtime.report.RunReport\n"
    (project / "configs/callbacks/run_report.yaml").write_text(report)
    option = "--loggers.mlflow.tracking_uri=http://me:very-secret@127.0.0.1:9"
    monkeypatch.setattr(sys, "argv", [*sys.argv, option])
    with pytest.warns(UserWarning, match=r"log_metrics failed .*me:\*\*\*@127.0.0.1") as caught:
        train(project, option)
    assert not any("very-secret" in str(warning.message) for warning in caught)
    printed = capsys.readouterr().out
    assert "me:***@127.0.0.1:9" in printed and "very-secret" not in printed
    assert "127.0.0.1:9' # your password in place of ***\n" in printed
    for name in ("config.yaml", "run.json", "report.html"):
        saved = (project / "runs/version_0" / name).read_text(encoding="utf-8")
        assert "http://me:***@127.0.0.1:9" in saved and "very-secret" not in saved, name


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host/x", "https://me:***@host/x"),
        ("https://:secret@host/x", "https://:***@host/x"),
        ("postgresql://me:se@cret@host/x", "postgresql://me:***@host/x"),
        ("https://ghp_secret@github.com/x.git", "https://***@github.com/x.git"),
        ("at git+https://secret@host and http://secret@host", "at git+https://***@host and http://***@host"),
        *[(same, same) for same in ("https://host/a@b", "https://host?to=a@b", "https://git@host/x")],
        *[(same, same) for same in ("git@github.com:x/y.git", "ssh://git@host", "mysql://me@host")],
    ],
)  # fmt: skip
def test_what_is_secret_in_an_address(address: str, shown: str) -> None:
    assert hide_passwords(address) == shown


def test_evaluation_uses_the_best_checkpoint(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(project)
    capsys.readouterr()
    tested = train(project, "test", "--ckpt_path", "best", "--trainer.enable_progress_bar=true")
    assert torch.equal(tested.model.layer.weight, trained.model.layer.weight)
    assert "test_loss" in capsys.readouterr().out
    assert "val_loss" in train(project, "validate", "--ckpt_path=last").returned[0]


def test_evaluation_makes_the_model_of_the_checkpoint(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, "--model.width=5")
    assert train(project, "test", "--ckpt_path=best").model.layer.out_features == 5
    assert "width=5" in capsys.readouterr().out
    said = fails(project, capsys, "test", "--ckpt_path=best", "--model.width=2", code=1)
    assert "layer" in said


def test_predictions_are_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(project)
    capsys.readouterr()
    train(project, "predict", "--ckpt_path=best")
    folder = project / "runs/version_1"
    batches = torch.load(folder / "predictions.pt", weights_only=True)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert "\n10 predictions written to ../project/runs/version_1" in capsys.readouterr().out
    assert (folder / "config.yaml").is_file()


def test_resuming_from_a_path_where_it_was_started(project: Path) -> None:
    train(project)
    shutil.copy(next(project.glob("runs/version_0/checkpoints/*.ckpt")), "here.ckpt")
    with pytest.warns(UserWarning, match="now saves into .*version_1"):  # it lies in no run folder
        cli = train(project, "fit", "--ckpt_path=here.ckpt", "--trainer.max_epochs=3")
    assert cli.trainer.current_epoch == 3


def test_trying_it_out_leaves_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(project, "--trainer.fast_dev_run=true")
    assert not list(project.glob("runs/*"))
    assert "run folder" not in capsys.readouterr().out


def test_a_process_started_later_finds_the_same_files(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.yaml").write_text("trainer: {fast_dev_run: true}\n")
    monkeypatch.setattr(sys, "argv", ["../project/train.py", "--config=other.yaml"])
    run(Model, Data, project / "configs")
    script, option = sys.argv
    assert script == str(project / "train.py")
    assert Path(option.removeprefix("--config=")).is_absolute()


def test_the_working_directory_comes_back(project: Path) -> None:
    before = os.getcwd()
    train(project, "--trainer.fast_dev_run=true")
    assert os.getcwd() == before


# -- a model or data module chosen by its name ------------------------------------------------


@pytest.fixture
def choice(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "chosen_classes", sys.modules[Model.__module__])
    for part, name, text in (
        ("model", "wide", "Wide\ninit_args:\n  width: 6"),
        ("data", "fours", "Fours"),
    ):
        (project / "configs" / part).mkdir()
        text = f"class_path: chosen_classes.{text}\n"
        (project / "configs" / part / f"{name}.yaml").write_text(text)
    return project


def test_the_next_command_finds_the_run_of_a_version(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("fold_0", "fold_1"):
        train(project, "--loggers.csv.version", version)
        capsys.readouterr()
    words = ["--loggers.csv.version", "fold_0"]
    cli = train(project, "test", "--ckpt_path", "best", *words)
    assert "/fold_0/" in cli.trainer.ckpt_path
    train(project, *words)
    said = capsys.readouterr().out
    assert "test --ckpt_path best --loggers.csv.version fold_0\n" in said


def test_a_class_is_chosen_by_the_name_of_its_file(
    choice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = train(choice, "--model", "wide", "--data=fours", "--data.count=5")
    assert (type(cli.model), cli.model.layer.out_features) == (Wide, 6)
    assert (type(cli.datamodule), cli.datamodule.batch_size) == (Fours, 5)
    said = capsys.readouterr().out
    assert "test --ckpt_path best --model wide --data fours --data.count=5\n" in said
    assert type(train(choice).model) is Model  # whoever does not ask gets what the script names


def test_what_was_chosen_replays_from_its_configuration(choice: Path) -> None:
    train(choice, "--model=wide", "--model.width=2")
    cli = train(choice, "--config=../project/runs/version_0/config.yaml")
    assert (type(cli.model), cli.model.layer.out_features) == (Wide, 2)


def test_a_checkpoint_of_what_was_chosen(choice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(choice, "--model=wide", "--model.width=2")
    capsys.readouterr()
    cli = train(choice, "test", "--ckpt_path=best", "--model=wide")
    assert torch.equal(cli.model.layer.weight, trained.model.layer.weight)
    assert "model with width=2," in capsys.readouterr().out
    said = fails(choice, capsys, "test", "--ckpt_path=best")
    assert "Wide, not by the model of the script; choose it with --model NAME" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model=wid"], "there is no configs/model/wid.yaml. Did you mean `wide`? There: wide."),
        (["--data=wide"], "There: fours."),
        (["--model"], "--model needs a name"),
        (["--model", "--data=fours"], "--model needs a name"),
        (["--model=wide", "--model.widht=3"], "Did you mean `model.width`?"),
        (["--model=wide", "--model.width=x"], "model.width: expected int, got 'x'"),
        (["--model=../model"], "there is no configs/model/../model.yaml"),
    ],
)
def test_a_wrong_choice_is_named(
    choice: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert said in fails(choice, capsys, *options)


def test_a_chosen_file_must_name_its_class(
    choice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (choice / "configs/model/wide.yaml").write_text("width: 3\n")
    assert "configs/model/wide.yaml must name its class" in fails(choice, capsys, "--model=wide")


def test_help_of_what_is_chosen(choice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(choice, "--model=wide", "--help")
    said = capsys.readouterr().out
    assert "--model.width" in said and "chosen_classes.Wide" in said
    assert "--model NAME takes class and arguments from configs/model/NAME.yaml" in said


# -- help -------------------------------------------------------------------------------------


def test_help_shows_what_is_configured(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as left:
        train(project, "--help")
    said = capsys.readouterr().out
    assert left.value.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if "--" in line[:5]}
    assert rows["--model.lr"] == ["0.5"]
    assert rows["--callbacks.early_stopping.monitor"] == ["val_loss"]
    assert rows["--trainer.max_epochs"][0] == "2"
    assert max(map(len, said.splitlines())) <= 100


def test_help_of_one_class(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(project, "--callbacks.early_stopping.help=EarlyStopping")
    assert "the logged name to watch" in capsys.readouterr().out


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("trainer.yaml", "max_epoch: 3\n", "trainer.max_epoch (in configs/trainer.yaml)."
         " Did you mean `trainer.max_epochs`?"),
        ("trainer.yaml", "max_epochs: many\n", "(in configs/trainer.yaml): expected int or null,"
         " got 'many'"),
        ("model.yaml", "lr:\n\tx: 3\n", "configs/model.yaml, line 2: YAML is indented with spaces"),
        ("model.yaml", "- lr\n", "configs/model.yaml holds a list"),
        ("model.yaml", "lr:\n", "model.lr (in configs/model.yaml): `lr` is empty: expected float, got null"),
        ("model.yaml", "1: 2\n", "configs/model.yaml: the key 1 is not a string"),
        ("callbacks/early_stopping.yaml", f"class_path: {CALLBACKS}.EarlyStopping\ninit_args: [loss]\n",
         "configs/callbacks/early_stopping.yaml: `init_args` must hold `key: value` lines"),
        ("model.yaml", "lr: 1\n# again\nlr: 2\n",
         "configs/model.yaml, line 3, column 1: `lr` was set in line 1 already"),
        ("callbacks/early_stopping.yaml", f"class_path: {CALLBACKS}.EarlyStoping\n",
         "(in configs/callbacks/early_stopping.yaml): scaffold_runtime.callbacks has no"
         " `EarlyStoping`. Did you mean `EarlyStopping`?"),
        ("callbacks/early_stopping.yaml",
         f"class_path: {CALLBACKS}.EarlyStopping\ninit_args: {{monitor: v, patienc: 3}}\n",
         "callbacks.early_stopping.patienc (in configs/callbacks/early_stopping.yaml)."
         " EarlyStopping does not take it. Did you mean `callbacks.early_stopping.patience`?"),
        ("callbacks/early_stopping.yaml", f"class_path: {CALLBACKS}.EarlyStopping\n",
         "missing callbacks.early_stopping (in configs/callbacks/early_stopping.yaml): monitor"),
        ("callbacks/early_stopping.yaml",
         f"class_path: {CALLBACKS}.EarlyStopping\ninit_args: {{monitor: v}}\npatience: 3\n",
         "unknown key callbacks.early_stopping.patience (in configs/callbacks/early_stopping.yaml)."
         " Arguments of EarlyStopping stand below init_args."),
        ("callbacks/early_stopping.yaml", f"class: {CALLBACKS}.EarlyStopping\n",
         "configs/callbacks/early_stopping.yaml names no class. Did you mean `class_path`?"),
        ("callbacks/early_stopping.yaml", "patience: 3\n", "names no class. Write `class_path: ...`."),
        ("model.yaml", "lr: 1\nwidth:32\n# more\nx: 2\n", "configs/model.yaml, line 2, column 1: could not"),
        ("model.yaml", 'lr: "C:\\Users"\n', "in single quotes it does not"),
        ("loggers/csv.yaml", "class_path: nowhere.Logger\n",
         "(in configs/loggers/csv.yaml): there is no module `nowhere`"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    (project / "configs" / name).write_text(text)
    assert said in fails(project, capsys)


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("mine_1", "class Mine(Callback: pass", "mine_1 cannot be imported: SyntaxError: "),
        ("mine_2", "1 / 0", "mine_2 cannot be imported: ZeroDivisionError: division by zero\n"),
        ("mine_3", "from torch import nothing", "mine_3 cannot be imported: ImportError: cannot import name 'nothing'"),
        ("mine_4", "import nowhere", "there is no module `nowhere`.\n"),
        ("mine_5", "class Mine(Callback):\n    def __init__(self): import nowhere",
         "No module named 'nowhere'\n  `pip install -e .` installs what"),
    ],
)  # fmt: skip
def test_a_class_whose_module_is_broken_is_named(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    code: str,
    said: str,
) -> None:
    (project / f"{module}.py").write_text(f"from scaffold_runtime import Callback\n{code}\n")
    (project / "configs/callbacks/mine.yaml").write_text(f"class_path: {module}.Mine\n")
    monkeypatch.syspath_prepend(project)
    where = "error: callbacks.mine (in configs/callbacks/mine.yaml): "
    assert fails(project, capsys).startswith(where + said)


def test_a_file_in_another_encoding_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "configs" / "model.yaml").write_text("lr: 1.0  # größer\n", encoding="utf-16")
    assert "configs/model.yaml is not UTF-8 text: save it" in fails(project, capsys)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--callbacks.early_stoping.patience=3", "Did you mean `early_stopping`?"),
        ("--callbacks.early_stopping.patienc=3", "`callbacks.early_stopping.patience`?"),
        ("--callbacks.early_stopping.patience=x", "early_stopping.patience: expected int, got 'x'"),
        ("--loggers.csvv.prefix=x", "`csvv` is not among the loggers. Did you mean `csv`?"),
        ("--model.lr=x", "model.lr: expected float, got 'x'"),
        ("--modell.lr=3", "Did you mean `--model.lr`?"),
        ("--config=none.yaml", "there is no file"),
        (
            "fitt",
            "unknown command 'fitt': choose fit, validate, test, predict, check. Did you mean `fit`?",
        ),
    ],
)
def test_a_wrong_option_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    assert said in fails(project, capsys, option)


def test_a_wrong_part_of_a_file_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("callbacks: 3\n")
    assert "a.yaml: `callbacks` must hold" in fails(project, capsys, "--config=a.yaml")


def test_no_configs_at_all(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(project / "configs")
    assert "there is no folder" in fails(project, capsys)


def test_errors_of_the_runtime_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "--trainer.limit_train_batches=1.5"
    assert "limit_train_batches" in fails(project, capsys, option)
    assert "none.ckpt" in fails(project, capsys, "test", "--ckpt_path=none.ckpt", code=1)
    monkeypatch.setenv("SCAFFOLD_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        train(project, option)
    assert "Traceback" in capsys.readouterr().err


class Broken(torch.utils.data.Dataset[Any]):
    """Fails where it is read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        raise ValueError("broken sample")


def test_a_traceback_of_a_worker_shows_no_engine(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Data, "train_dataloader", lambda self: DataLoader(Broken(), num_workers=1))
    with pytest.raises(ValueError, match="broken sample") as raised:
        train(project)
    files = [Path(str(entry.path)) for entry in raised.traceback]
    assert {file.name for file in files if "scaffold_runtime" in file.parts} == {"project.py"}


@pytest.mark.parametrize("whole", [False, True])
def test_a_traceback_shows_the_project(
    whole: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training_step(self: Model, batch: Any, batch_idx: int) -> Any:
        return batch["no such key"]

    monkeypatch.setattr(Model, "training_step", training_step)
    if whole:
        monkeypatch.setenv("SCAFFOLD_TRACEBACK", "1")
    with pytest.raises(Exception, match=r"no such key|indices") as raised:
        train(project)
    files = [Path(str(entry.path)) for entry in raised.traceback]
    engine = [file for file in files if "scaffold_runtime" in file.parts]
    assert files[-1].name == Path(__file__).name
    assert {file.name for file in engine} == {"project.py"} or whole
    assert any(file.name == "step.py" for file in engine) is whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.batch_size=0"], "`return DataLoader(TensorDataset(torch.ones(10, 2)), self.batch_size)`:"
         " batch_size should be a positive integer"),
        (["--model.lr=-1"], "`return torch.optim.SGD(self.parameters(), lr=self.lr)`:"
         " Invalid learning rate: -1"),
        (["--loggers.csv.save_dir=a_file"], "error: a_file: File exists"),
        (["--loggers.csv.save_dir=/dev/null/runs"], "error: /dev/null/runs: Not a directory"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    (project / "a_file").touch()
    assert said in fails(project, capsys, *options, code=1).splitlines()[-1]


def test_warnings_are_one_line() -> None:
    before, ours = warnings.formatwarning, str(Path(scaffold_runtime.__file__).parent / "run.py")
    with plain_errors():
        assert warnings.formatwarning("loud", UserWarning, ours, 3) == "warning: loud\n"
        mine = warnings.formatwarning("mine", UserWarning, os.path.abspath("model.py"), 3)
    assert mine == "warning: model.py, line 3: mine\n"
    assert warnings.formatwarning is before


def test_that_a_script_runs_is_no_news_in_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "train.py", raising=False)
    with plain_errors():
        assert warnings.formatwarning("loud", UserWarning, "train.py", 9) == "warning: loud\n"


def test_a_package_that_a_script_lacks_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error[1]))
    plain_imports()
    for name in ("no_such_package", "scaffold_runtime.no_such_module"):
        with pytest.raises(ModuleNotFoundError) as raised:
            importlib.import_module(name)
        sys.excepthook(raised.type, raised.value, raised.tb)
    said = capsys.readouterr().err
    assert (
        said.startswith("error: ") and "No module named 'no_such_package'\n  `pip install" in said
    )
    assert said.count("\n") == 2 and shown == [raised.value]


def test_errors_of_the_project_keep_their_traceback(project: Path) -> None:
    class Broken(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ZeroDivisionError("mine")

    class Unmade(Model):
        def __init__(self, lr: float = 0.1) -> None:
            raise KeyError("mine too")

    class Unopened(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return Path("none.txt").read_text()

    class Diverging(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            scale = torch.tensor(
                -1.0
            )  # said, since torch.compile of an earlier test switches it off
            return torch.distributions.Normal(torch.zeros(()), scale, validate_args=True).entropy()

    class Unequal(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(torch.ones(2, 2), torch.ones(3, dtype=torch.long))

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(project, model=Broken)
    with pytest.raises(FileNotFoundError, match="No such file"):
        train(project, model=Unopened)
    with pytest.raises(ValueError, match="batch_size"):
        train(project, model=Unequal)
    with pytest.raises(ValueError, match="satisfy the constraint"):
        train(project, model=Diverging)
    with pytest.raises(KeyError, match="mine too"):
        train(project, model=Unmade)


def test_ctrl_c_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            signal.raise_signal(signal.SIGINT)
            return super().training_step(batch, batch_idx)

    with pytest.raises(SystemExit) as left:
        train(project, model=Interrupted)
    assert left.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_files_of_configuration_are_named_to_the_next_command(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "slow run.yaml").write_text("model:\n  lr: 0.001\n")
    train(project, "--config", str(project / "slow run.yaml"))
    said = capsys.readouterr().out
    (shown,) = re.findall(r"test --ckpt_path best --config '(.*)'\n", said)
    assert Path(shown).resolve() == project / "slow run.yaml"


def test_which_checkpoint_is_the_best_or_the_last_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project)
    capsys.readouterr()
    for wanted in ("best", "last"):
        cli = train(project, "test", f"--ckpt_path={wanted}")
        said = capsys.readouterr().out
        assert f"'{wanted}' is runs/version_0/checkpoints/" in said
        assert Path(cli.trainer.ckpt_path).name in said


# -- as a process -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("raise OSError(28, 'No space left on device')", "the output"),
        pytest.param(
            "__import__('pathlib').Path('/dev/full').write_text('x')",
            "/dev/full",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it"),
        ),
    ],
)
def test_output_that_nobody_takes_is_one_line(call: str, what: str) -> None:
    script = (
        "from scaffold_runtime.errors import plain_errors\n"
        f"with plain_errors():\n    print('x' * 99999, flush=False)\n    {call}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"error: cannot write {what}: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["-u", "-E"])  # written at once, or held back
@pytest.mark.parametrize("broken", ["what is printed", "a pipe of the project's"])
def test_output_that_nobody_reads_is_told_from_another_pipe(broken: str, option: str) -> None:
    script = """
import os, sys
from scaffold_runtime.errors import plain_errors
with plain_errors():
    sys.stdin.read()
    print("x" * 99999)
    reads, writes = os.pipe()
    os.close(reads)
    os.write(writes, b"x")
"""
    command = [sys.executable, option, "-c", script]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        if broken == "what is printed":
            process.stdout.close()
            process.stdin.close()
            said = process.stderr.read()
            assert said == "error: stopped, since nothing reads the output any more.\n"
        else:
            said = process.communicate()[1]
            assert "Traceback" in said and "BrokenPipeError" in said
    assert process.returncode == 1


def test_as_a_script_from_another_folder(project: Path) -> None:
    classes = Path(__file__).read_text().partition("class Model")[2].partition("@pytest.fixture")[0]
    imports = """
        from typing import Any
        import torch
        from torch import Tensor, nn
        from torch.utils.data import DataLoader, TensorDataset
        from scaffold_runtime import LightningDataModule, LightningModule
        from scaffold_runtime.cli import run
    """
    main = "if __name__ == '__main__':\n    run(Model, Data)\n"
    text = f"{textwrap.dedent(imports)}\nclass Model{classes}\n{main}"
    (project / "train.py").write_text(text)
    script = os.path.relpath(project / "train.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", script, "--trainer.max_epochs=1",
         "--callbacks.rate=LearningRateMonitor"],  # a bare name that nothing imported before
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (project / "runs/version_0/config.yaml").is_file()
    assert "next             python ../project/train.py test" in done.stdout
    typed = (
        (project / "train.py")
        .read_text()
        .replace("run(Model, Data)", "run(Model, Data, args=['fit'])")
    )
    notebook = subprocess.run(
        [sys.executable, "-c", f"import builtins\nbuiltins.__IPYTHON__ = True\n{typed}"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "run folder" in notebook.stdout, notebook.stderr
    assert "next  " not in notebook.stdout  # it is no script that one could run
    wrong = subprocess.run(
        [sys.executable, script, "--model.lrr=1"], capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode == 2
    assert wrong.stderr == "error: unknown option --model.lrr. Did you mean `--model.lr`?\n"


HERE = "test_cli_project"  # pytest gives this module another name


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_check_makes_everything_and_leaves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], by_name: None
) -> None:
    """Also what `--model` and `--data` could choose, and files for `--config`; nothing else."""
    for name, text in {
        "model/wide.yaml": f"class_path: {HERE}.Wide\n",
        "data/fours.yaml": f"class_path: {HERE}.Fours\n",
        "experiments/fast.yaml": "model: {lr: 2.0}\n",
        "labels.yaml": "0: zero\n",
    }.items():
        (project / "configs" / name).parent.mkdir(exist_ok=True)
        (project / "configs" / name).write_text(text)
    before = files_below(project)

    train(project, "check")

    assert capsys.readouterr().out == "configs: OK, all 4 ways to run can be created\n"
    assert files_below(project) == before


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("trainer.yaml", "precision: fp99\n", "trainer.precision (in configs/trainer.yaml): "),
        (
            "trainer.yaml",
            "max_epoch: 1\n",
            "unknown key trainer.max_epoch (in configs/trainer.yaml)",
        ),
        ("model.yaml", "width: -1\n", "model (in configs/model.yaml): RuntimeError: Trying to"),
        ("data.yaml", "batch_size: many\n", "data.batch_size (in configs/data.yaml): expected int"),
        (
            "callbacks/early_stopping.yaml",
            f"class_path: {CALLBACKS}.EarlyStopping\ninit_args: {{monitor: a, mode: up}}\n",
            "callbacks.early_stopping.mode (in configs/callbacks/early_stopping.yaml): ",
        ),
        ("callbacks/x.yaml", f"class_path: {CALLBACKS}.Nothing\n", "(in configs/callbacks/x.yaml)"),
        ("loggers/csv.yaml", "class_path: [\n", "configs/loggers/csv.yaml, line 2"),
        (
            "model/wide.yaml",
            f"class_path: {HERE}.Wide\ninit_args: {{widht: 2}}\n",
            "model.widht (in configs/model/wide.yaml). Wide does not take it. Did you mean `model.width`",
        ),
        ("model/wide.yaml", "init_args: {}\n", "configs/model/wide.yaml must name its class"),
        ("data/fours.yaml", f"class_path: {HERE}.Model\n", "data (in configs/data/fours.yaml)"),
        ("runs/fast.yaml", "model: {lr: fast}\n", "model.lr (in configs/runs/fast.yaml): expected"),
    ],
)
def test_check_names_file_and_key(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    by_name: None,
    file: str,
    text: str,
    says: str,
) -> None:
    """A config that does not parse, or whose object cannot be made, is named before anything trains."""
    (project / "configs" / file).parent.mkdir(exist_ok=True)
    (project / "configs" / file).write_text(text)

    said = fails(project, capsys, "check")

    assert says in said
    assert said.count("error: ") == 1
    assert "Traceback" not in said


def test_a_wrong_value_of_a_callback_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In training, too; jsonargparse's own message has ten lines about types."""
    said = fails(project, capsys, "--callbacks.early_stopping.mode", "up")

    assert said == (
        "error: callbacks.early_stopping.mode: EarlyStopping(mode='up'): choose 'min' or 'max'.\n"
    )


def test_help_of_a_class_without_arguments(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = "class_path: scaffold_runtime.Callback\n"
    (project / "configs/callbacks/bare.yaml").write_text(bare)
    with pytest.raises(SystemExit) as left:
        train(project, "--help")
    assert left.value.code == 0
    assert "callbacks.bare  scaffold_runtime." in capsys.readouterr().out


def test_the_configuration_of_a_run_serves_every_command(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, "--data.batch_size=2")
    saved = str(project / "runs/version_0/config.yaml")
    for command in ("validate", "test", "predict"):
        again = train(project, command, "--config", saved, "--ckpt_path=best")
        assert again.datamodule.batch_size == 2
    capsys.readouterr()
    said = fails(project, capsys, "test", "--ckpt_path=best", "--restore=weights")
    assert said == "error: --restore is an option of fit, not of test.\n"
    with pytest.raises(SystemExit):
        train(project, "test", "--help")
    assert "--restore" not in capsys.readouterr().out


def test_options_count_for_more_than_files_wherever_they_stand(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more=x.yaml").write_text("model:\n  lr: 0.5\n")
    words = ["--model.lr=0.25", "--config", str(tmp_path / "more=x.yaml")]
    assert train(project, *words).model.lr == 0.25
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(project, "--print_config", *words[1:], *words[:1])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["lr"] == 0.25


def test_a_resume_that_fails_leaves_the_configuration_of_the_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, "--model.width=5")
    place = project / "runs/version_0"
    before = (place / "config.yaml").read_text()
    with pytest.raises(SystemExit):
        train(project, "--ckpt_path=last", "--model.width=4")
    assert (place / "config.yaml").read_text() == before
    train(project, "--ckpt_path=last", "--model.width=5", "--trainer.max_epochs=3")
    assert (place / "config.replaced.yaml").read_text() == before
    assert yaml.safe_load((place / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(
    ("name", "meant"),
    [("callbacks/early.yml", "early.yaml"), ("trainers.yaml", "trainer.yaml"), ("data.yml", "data.yaml"),
     ("callbacks/timer.yaml.txt", "timer.yaml"), ("model.yaml.txt", "model.yaml"), ("data.yml.txt", "data.yaml")],
)  # fmt: skip
def test_a_file_that_is_not_read_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, meant: str
) -> None:
    configs = project / "configs"
    if not name.startswith("callbacks"):
        (configs / meant).unlink(missing_ok=True)
    (configs / name).write_text("{}")
    said = fails(project, capsys)
    assert said == f"error: configs/{name} is not read: call it {meant}.\n"


@pytest.mark.parametrize(
    ("name", "better"),
    [("early_stopping - Kopie", "early_stopping_Kopie"), ("my timer", "my_timer"), ("a.b", "a_b"), ("x (1)", "x_1")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_file_whose_name_is_no_option_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], name: str, better: str, command: str
) -> None:
    config = project / "configs/callbacks/early_stopping.yaml"
    shutil.copy(config, config.with_name(f"{name}.yaml"))
    said = fails(project, capsys, command)
    assert said.startswith(f"error: configs/callbacks/{name}.yaml: a name has letters, digits")
    assert said.endswith(f"Call it {better}.yaml, or delete it if it is a copy.\n")


def test_other_data_than_the_run_of_a_checkpoint_had_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another split, or other batches, it is not the same training."""
    train(project, "--data.batch_size=2")
    capsys.readouterr()
    note = "the run of the checkpoint had data.batch_size=2; now 4\n"
    train(project, "test", "--ckpt_path=best")
    assert note in capsys.readouterr().out
    train(project, "test", "--ckpt_path=best", "--data.batch_size=2")
    assert note not in capsys.readouterr().out
    train(project, "fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert note in capsys.readouterr().out
    train(project, "fit", "--ckpt_path=last", "--restore=weights", "--data.batch_size=3")
    assert "the run of the checkpoint" not in capsys.readouterr().out


def test_another_rate_than_the_run_had_is_said_and_how_to_have_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(project, "--model.lr=0.5")
    more = ["--ckpt_path=last", "--trainer.max_epochs=3"]
    capsys.readouterr()
    train(project, *more, "--model.lr=0.25")
    note = "the run of the checkpoint had model.lr=0.5; now 0.25; its optimizer keeps its own rate (--restore_lr"
    assert note in capsys.readouterr().out
    train(project, *more, "--model.lr=0.25")
    assert "the run of the checkpoint" not in capsys.readouterr().out


def test_a_default_of_none_may_stay_whatever_the_annotation(project: Path) -> None:
    class Implicit(Model):
        def __init__(self, lr: float = 0.1, hidden: int = None) -> None:  # noqa: RUF013
            super().__init__(lr)
            self.hidden = hidden

    assert train(project, model=Implicit).model.hidden is None


def test_anchors_and_merges_are_no_keys_written_twice(project: Path) -> None:
    text = "base: &base {lr: 0.5}\nmore: &more\n  <<: *base\n  lr: 0.25\nmodel:\n  <<: *more\n"
    (project / "all.yaml").write_text(text)
    assert read_yaml(project / "all.yaml", "all.yaml")["model"] == {"lr": 0.25}
    (project / "all.yaml").write_text("lr: {{lr}}\n")
    with pytest.raises(ConfigError, match=r"all.yaml, line 1, column \d+: found unhashable key"):
        read_yaml(project / "all.yaml", "all.yaml")


def test_arguments_that_are_all_commented_out_are_none(project: Path) -> None:
    text = f"class_path: {CALLBACKS}.LearningRateMonitor\ninit_args:\n  # logging_interval: step\n"
    (project / "configs/callbacks/rate.yaml").write_text(text)
    train(project, "check")


def test_help_of_check_is_that_of_training(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        train(project, "check", "--help")
    assert left.value.code == 0
    assert "--trainer.max_epochs" in capsys.readouterr().out


def test_data_without_arguments_has_nothing_to_compare(project: Path) -> None:
    class Bare(Data):
        def __init__(self) -> None:
            super().__init__()

    (project / "configs/data.yaml").unlink()
    run(Model, Bare, project / "configs", [])
    again = run(Model, Bare, project / "configs", ["test", "--ckpt_path=best"])
    assert again.trainer.ckpt_path
