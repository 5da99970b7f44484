"""WandbLogger in offline mode and MLFlowLogger on a local SQLite store: real runs, read back."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scaffold_runtime.callbacks import ModelCheckpoint
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

CANARY = "c4n4ry5ecret000000000000000000000000feed"
SECRETS = (
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
)
# MLflow 3.17 uses what SQLAlchemy 2.1 calls deprecated; it is theirs to settle.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, no user's settings, secrets in the environment."""
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONFIG_DIR": str(tmp_path / "home"),
        "WANDB_CACHE_DIR": str(tmp_path / "home"),
        "WANDB_DATA_DIR": str(tmp_path / "home"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **dict.fromkeys(SECRETS, CANARY),
    }.items():
        monkeypatch.setenv(name, value)
    yield
    if "wandb" in sys.modules and hasattr(sys.modules["wandb"], "finish"):
        end_wandb()


def end_wandb() -> None:
    """End the run and wandb's own process: offline, `finish` returns before that one has written the file."""
    import wandb

    wandb.finish()
    wandb.teardown()


@pytest.fixture
def configured(regression) -> Any:
    class Configured(regression):
        def __init__(self, width: int = 8, options: Any = None) -> None:
            super().__init__(width=width)
            self.save_hyperparameters()

    return Configured


def offline_records(folder: str | Path) -> list[Any]:
    """The records of an offline W&B run, as the messages that wandb ships the definitions of."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for data in log_chunks(next(Path(folder).glob("*.wandb")).read_bytes()):
        records.append(wandb_internal_pb2.Record())
        records[-1].ParseFromString(data)
    return records


def log_chunks(data: bytes) -> Iterator[bytes]:
    """What a file in LevelDB's log format holds: chunks in blocks of 32 KiB, after wandb's seven bytes."""
    assert data[:4] == b":W&B"
    place, held = 7, b""
    while place < len(data):
        if place % 32768 > 32768 - 7:
            place += -place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield held
            held = b""


def history(records: list[Any]) -> list[dict[str, float]]:
    rows = []
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): eval(i.value_json) for i in items})
    return rows


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Where runs are kept; a full path, since MLflow keeps connections open by name."""
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(store: str) -> Any:
    """MLflow's own client, to read back with."""
    from mlflow import MlflowClient

    return MlflowClient(store)


def test_mlflow_takes_the_experiment_of_its_run(store, client) -> None:
    first = MLFlowLogger("theirs", tracking_uri=store)
    again = MLFlowLogger(run_id=first.run_id, tracking_uri=store)
    assert again.experiment_id == first.experiment_id
    assert client.get_experiment_by_name("lightning_logs") is None


# -- W&B ------------------------------------------------------------------------------------------


def test_wandb_without_an_account_says_what_to_do(
    regression, make_loader, make_trainer, monkeypatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "no_such_file")
    trainer = make_trainer(logger=WandbLogger(save_dir="logs"))
    words = r"(No API key|api_key not configured).*WandbLogger\(offline=True\)"  # of wandb now, and of 0.18
    with pytest.raises(MisconfigurationException, match=words):
        trainer.fit(regression(), make_loader(1))


def test_wandb_writes_a_real_offline_run(configured, make_loader, make_trainer) -> None:
    logger = WandbLogger("my run", "logs", project="exp", offline=True, prefix="big", tags=["x"])
    save = ModelCheckpoint()
    trainer = make_trainer(logger=logger, callbacks=save, enable_checkpointing=True)
    trainer.fit(configured(options={"a": [1, 2]}), make_loader(3))
    end_wandb()

    (folder,) = Path("logs/wandb").glob("offline-run-*")
    assert folder.name.endswith(f"-{logger.version}")
    records = offline_records(folder)
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.project, run.display_name, list(run.tags)) == ("exp", "my run", ["x"])
    rows = history(records)
    steps = [row["trainer/global_step"] for row in rows if "big-loss" in row]
    assert steps == [0, 1, 2]
    config = {
        update.key: update.value_json
        for record in records
        for update in (*record.config.update, *record.run.config.update)
    }
    assert config["width"] == "8" and config["options"].replace(" ", "") == '{"a":[1,2]}'
    assert logger.log_dir == f"logs/exp/{logger.version}"
    assert save.dirpath == os.path.realpath(f"{logger.log_dir}/checkpoints")


def test_wandb_init_gets_what_it_was_told(configured, make_loader, make_trainer) -> None:
    logger = WandbLogger(save_dir="logs", offline=True, resume="never", notes="told")
    make_trainer(logger=logger).fit(configured(), make_loader(1))
    assert logger.experiment.notes == "told"


def test_wandb_goes_on_in_its_run_folder_when_resumed(
    configured, make_loader, make_trainer
) -> None:
    def train(epochs: int, **arguments: Any) -> str:
        loggers = [CSVLogger("logs", "exp", "mine"), WandbLogger(offline=True)]
        trainer = make_trainer(max_epochs=epochs, logger=loggers)
        trainer.fit(configured(), make_loader(2), **arguments)
        trainer.save_checkpoint("end.ckpt")
        end_wandb()
        return str(loggers[1].version)

    first = train(1)
    second = train(2, ckpt_path="end.ckpt")

    assert first == second
    files = list(Path("logs/exp/mine/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and {file.stem for file in files} == {f"run-{first}"}


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_alone_it_goes_on_in_the_run_of_the_checkpoint(
    kind: str, configured, make_loader, make_trainer, store
) -> None:
    def train(epochs: int, resume: str | None = None) -> tuple[str, str]:
        logger: Any = (
            WandbLogger(save_dir="logs", project="exp", offline=True)
            if kind == "wandb"
            else MLFlowLogger("exp", tracking_uri=store)
        )
        trainer = make_trainer(max_epochs=epochs, logger=logger, enable_checkpointing=True)
        trainer.fit(configured(), make_loader(2), ckpt_path=resume)
        end_wandb()
        assert f"/{logger.version}/checkpoints/" in trainer.checkpoint_callback.best_model_path
        return str(logger.version), trainer.checkpoint_callback.best_model_path

    first, path = train(1)
    assert train(2, path)[0] == train(3, "last")[0] == first


def test_others_take_the_id_of_wandb(configured, make_loader, make_trainer) -> None:
    first = WandbLogger(save_dir="logs", project="exp", id="run7", offline=True)
    loggers = [first, CSVLogger("logs", "exp")]
    make_trainer(logger=loggers).fit(configured(), make_loader(2))

    assert loggers[1].log_dir == loggers[0].log_dir == "logs/exp/run7"
    assert Path("logs/exp/run7/metrics.csv").exists()


# wandb 0.31 itself writes tables so.
@pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")
def test_wandb_takes_tables_and_images(configured, make_loader, make_trainer) -> None:
    logger = WandbLogger(save_dir="logs", offline=True)
    logger.log_table("table", columns=["a", "b"], data=[[1, 2]], step=3)
    logger.log_text("text", columns=["t"], data=[["hello"]])
    images = [torch.rand(3, 4, 4).numpy().transpose(1, 2, 0)]
    logger.log_image("image", images, caption=["one"])
    with pytest.raises(ValueError, match="1 items, but 2 of 'caption'"):
        logger.log_image("image", images, caption=["one", "two"])
    with pytest.raises(TypeError, match="log_audio takes a list"):
        logger.log_audio("audio", "file.wav")  # type: ignore[arg-type]
    end_wandb()

    (folder,) = Path("logs/wandb").glob("offline-run-*")
    kinds = {path.parent.name for path in folder.rglob("media/*/*")}
    assert {"table", "images"} <= kinds


def test_wandb_says_when_a_run_is_open_already() -> None:
    import wandb

    Path("logs").mkdir()
    run = wandb.init(dir="logs", mode="offline")
    with pytest.warns(UserWarning, match="is open in this process"):
        assert WandbLogger(save_dir="logs", offline=True).experiment is run
    assert WandbLogger(experiment=run).version == run.id


def test_wandb_uploads_nothing_offline() -> None:
    with pytest.raises(MisconfigurationException, match="log_model='all'"):
        WandbLogger(offline=True, log_model="all")


def test_a_wandb_logger_can_be_copied_to_another_process() -> None:
    logger = WandbLogger(save_dir="logs", project="exp", offline=True)
    copied = pickle.loads(pickle.dumps(logger))

    assert copied.version == logger.version
    assert "_open_run" in vars(copied) and copied._open_run is None


# -- MLflow ---------------------------------------------------------------------------------------


def test_mlflow_stores_a_real_run(configured, make_loader, make_trainer, store, client) -> None:
    logger = MLFlowLogger("exp", "my run", store, tags={"team": 7}, prefix="big")
    trainer = make_trainer(logger=logger, max_epochs=2)
    trainer.fit(configured(options={"a": [1, 2]}), make_loader(3))

    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "my run"
    assert run.data.params == {"width": "8", "options/a": "[1, 2]"}
    assert run.data.tags["team"] == "7"
    stored = client.get_metric_history(logger.run_id, "big-loss")
    assert [metric.step for metric in stored] == [0, 1, 2, 3, 4, 5]
    assert client.get_experiment(logger.experiment_id).name == "exp" == logger.name
    assert logger.version == logger.run_id and logger.save_dir is None and logger.log_dir is None


def test_mlflow_without_an_address_keeps_a_database(configured, make_loader, make_trainer) -> None:
    logger = MLFlowLogger("exp")
    make_trainer(logger=logger).fit(configured(), make_loader(1))

    assert Path("mlruns/mlflow.db").is_file()
    again = MLFlowLogger("exp", save_dir="./mlruns")
    assert again.experiment_id == logger.experiment_id


@pytest.mark.parametrize("tries", ["0", None])
def test_a_server_of_mlflow_that_is_down_is_one_clear_error(
    configured, make_loader, make_trainer, monkeypatch, tries
) -> None:
    """Soon, unless the user's variable says how often to try."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from mlflow.utils import rest_utils

    seen, http_request = [], rest_utils.http_request

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
        return http_request(*args, max_retries=0, **kwargs)

    monkeypatch.setattr(rest_utils, "http_request", noted)
    if tries:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", tries)
    trainer = make_trainer(logger=MLFlowLogger(tracking_uri="http://me:secret@127.0.0.1:9"))
    with pytest.raises(MisconfigurationException, match="cannot log to") as caught:
        trainer.fit(configured(), make_loader(1))
    assert str(caught.value).startswith(
        "MLFlowLogger cannot log to http://me:***@127.0.0.1:9: [Errno 111] Connection refused\n"
    )
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert seen == [int(tries or 3)]
    assert os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") == tries


def test_mlflow_goes_on_in_a_store_of_files(tmp_path) -> None:
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/0/meta.yaml").write_text("")
    assert MLFlowLogger().save_dir == "./mlruns"


def test_mlflow_takes_odd_names_and_many_parameters(store, client) -> None:
    logger = MLFlowLogger(tracking_uri=store)
    logger.log_metrics({"loss (mean)/dataloader_idx_0": 1.0}, 2)
    logger.log_hyperparams({f"p{i}": i for i in range(230)} | {"long": "x" * 9000})
    logger.log_hyperparams({"p0": "changed", "new": 1})

    data = client.get_run(logger.run_id).data
    assert data.metrics == {"loss  mean /dataloader_idx_0": 1.0}
    assert len(data.params) == 232 and len(data.params["long"]) == 6000
    assert data.params["p0"] == "0"  # MLflow refuses to change one


def test_mlflow_goes_on_in_the_run_it_noted(
    configured, make_loader, make_trainer, store, client
) -> None:
    def train(epochs: int, **arguments: Any) -> str:
        loggers = [TensorBoardLogger("logs", "exp", "mine"), MLFlowLogger("exp", tracking_uri=store)]  # fmt: skip
        trainer = make_trainer(max_epochs=epochs, logger=loggers)
        trainer.fit(configured(), make_loader(2), **arguments)
        trainer.save_checkpoint("end.ckpt")
        return str(loggers[1].version)

    first = train(1)
    assert train(2, ckpt_path="end.ckpt") == first

    stored = client.get_metric_history(first, "loss")
    assert [metric.step for metric in stored] == [0, 1, 2, 3]


def test_mlflow_marks_a_failed_run_and_keeps_checkpoints(
    configured, make_loader, make_trainer, store, client
) -> None:
    class Failing(configured):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    logger = MLFlowLogger(
        "exp", tracking_uri=store, log_model="all", artifact_location="file:artifacts"
    )
    trainer = make_trainer(
        logger=logger,
        max_epochs=2,
        callbacks=ModelCheckpoint("saved", "{epoch}"),
        enable_checkpointing=True,
    )
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Failing(), make_loader(2))

    assert client.get_run(logger.run_id).info.status == "FAILED"
    run = client.get_run(logger.run_id)
    assert {"mlflow.user", "mlflow.source.name"} <= set(run.data.tags)
    (sent,) = Path("artifacts").rglob("epoch=0/epoch=0.ckpt")
    assert sent.with_name("aliases.txt").read_text() == "['latest', 'best']"
    about = yaml.safe_load(sent.with_name("metadata.yaml").read_text())
    assert about["score"] is None
    assert about["ModelCheckpoint"]["save_top_k"] == 1


def test_the_newest_checkpoint_is_sent_last(
    configured, make_loader, make_trainer, store, monkeypatch
) -> None:
    """W&B's "latest" is what was sent last, and "epoch=10" sorts before "epoch=9"."""
    sent = []
    monkeypatch.setattr(
        MLFlowLogger, "send_checkpoint", lambda self, *arguments: sent.append(arguments)
    )
    keeper = ModelCheckpoint("saved", "{epoch}", monitor="loss", save_top_k=11)
    make_trainer(
        logger=MLFlowLogger("exp", tracking_uri=store, log_model=True),
        max_epochs=11,
        callbacks=keeper,
        enable_checkpointing=True,
    ).fit(configured(), make_loader(2))

    assert [file.stem for file, _, _ in sent] == [f"epoch={n}" for n in range(11)]
    best = [file for file, aliases, _ in sent if "best" in aliases]
    assert best == [Path(keeper.best_model_path)]
    assert [about["score"] for _, _, about in sent] == list(keeper.best_k_models.values())


# -- secrets --------------------------------------------------------------------------------------


def test_secrets_reach_no_file(configured, make_loader, make_trainer, store) -> None:
    """Canaries in the environment are nowhere in configs, logs and checkpoints."""
    loggers = [
        CSVLogger("logs", "exp"),
        TensorBoardLogger("logs", "exp"),
        WandbLogger(offline=True),
        MLFlowLogger("exp", tracking_uri=store),
    ]
    trainer = make_trainer(
        logger=loggers, callbacks=ModelCheckpoint(save_last=True), enable_checkpointing=True
    )
    trainer.fit(configured(), make_loader(2))
    end_wandb()
    Path("logger.pickle").write_bytes(pickle.dumps(loggers[2:]))

    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) > 8 and any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert not any(CANARY in repr(vars(logger)) for logger in loggers)
