"""MLFlowLogger: MLflow, on a server or in a local store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaffold_runtime.errors import MisconfigurationException, hide_passwords
from scaffold_runtime.extras import require
from scaffold_runtime.hparams import as_mapping
from scaffold_runtime.loggers.logger import ServiceLogger, flat

LONGEST = 6000  # characters of a parameter's value that MLflow accepts
AT_ONCE = 100  # parameters in one request
TRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # MLflow's own variable
ENDED = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}


class MLFlowLogger(ServiceLogger):
    """Log a run to MLflow.

    Credentials are read by `mlflow` itself (MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME and _PASSWORD); they
    never pass through here. A password in `tracking_uri` is left out of the run's config.yaml and of warnings. If an
    earlier logger in the list writes into a folder, the run's id is stored there, so that a resumed run continues the
    same MLflow run.

    Args:
        experiment_name: the experiment; created if it does not exist.
        run_name: the run's display name.
        tracking_uri: where runs are kept: "http://...", "sqlite:///mlflow.db", "file:./mlruns";
            MLFLOW_TRACKING_URI, or in the folder `save_dir`.
        tags: tags of the run.
        save_dir: if neither `tracking_uri` nor the variable is given, the folder of a database, `mlflow.db`, or of an
            existing file store.
        log_model: store checkpoints as artifacts: False, True (at the end), or "all" (as they are saved).
        prefix: put before every name.
        artifact_location: where the experiment's artifacts go, if it is created.
        run_id: a run to continue.
        synchronous: wait until each record is stored.

    Raises:
        MissingExtra: if `mlflow` is not installed.
        MisconfigurationException: if the server does not answer when training begins, after about ten seconds or as
            many retries as MLFLOW_HTTP_REQUEST_MAX_RETRIES says.
    """

    _open_client: Any = None  # not copied with the logger

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
        save_dir: str | os.PathLike[str] | None = "./mlruns",
        log_model: str | bool = False,
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
        synchronous: bool | None = None,
    ) -> None:
        super().__init__(prefix, log_model, run_id)
        require("mlflow", "scaffold-runtime[mlflow]", "MLFlowLogger")
        given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._tracking_uri = given or _default_uri(os.path.expanduser(save_dir or "./mlruns"))
        self._experiment_name, self._run_name, self._tags = experiment_name, run_name, tags or {}
        self._artifact_location = artifact_location
        self._experiment_id: str | None = None
        self._synchronous = {} if synchronous is None else {"synchronous": synchronous}
        self._known: dict[str, str] = {}

    # -- the run ----------------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        if self._open_client is None:
            mlflow = require("mlflow.tracking", "scaffold-runtime[mlflow]", "MLFlowLogger")
            kind, _, file = self._tracking_uri.partition(":///")
            if kind == "sqlite":  # not every release of MLflow creates the folder
                os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            self._open_client = mlflow.MlflowClient(self._tracking_uri)
        return self._open_client

    @property
    def experiment(self) -> Any:
        """MLflow's client; the run is open."""
        assert self.run_id
        return self._client

    @property
    def experiment_id(self) -> str:
        """The experiment's id; the experiment is created if it does not exist."""
        if self._experiment_id is None and self._version is not None:
            self._experiment_id = self._client.get_run(self._version).info.experiment_id
        if self._experiment_id is None:
            client, name = self._client, self._experiment_name
            if (found := client.get_experiment_by_name(name)) is not None:
                self._experiment_id = found.experiment_id
            else:
                self._experiment_id = client.create_experiment(name, self._artifact_location)
        return str(self._experiment_id)

    @property
    def run_id(self) -> str:
        """The run's id; the run is created when it is first needed."""
        return str(self.version)

    def _choose_version(self) -> str:
        """The run whose id is in the shared folder, if this run is resumed, or else a new one."""
        note = self._note()
        noted = note.read_text(encoding="utf-8").strip() if note and note.exists() else ""
        if noted:
            return noted
        from mlflow.tracking.context.registry import resolve_tags

        # Including MLflow's own tags: user, script and commit.
        tags = resolve_tags({str(k): str(v) for k, v in self._tags.items()})
        with _few_retries():
            run = self._client.create_run(self.experiment_id, tags=tags, run_name=self._run_name)
        if note is not None:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(run.info.run_id, encoding="utf-8")
        return str(run.info.run_id)

    def _note(self) -> Path | None:
        """The file in the shared run folder that holds our run's id."""
        folder = self._first.log_dir if self._first is not None else None
        return Path(folder) / "mlflow_run_id.txt" if folder else None

    @property
    def name(self) -> str:
        """The experiment."""
        return self._experiment_name

    @property
    def save_dir(self) -> str | None:
        """The folder of a local file store; None for other stores."""
        kind, _, place = self._tracking_uri.partition(":")
        return place.removeprefix("//") if kind == "file" else None

    @property
    def root_dir(self) -> str | None:
        return os.path.join(self.save_dir, self.experiment_id) if self.save_dir else None

    @property
    def log_dir(self) -> str | None:
        return os.path.join(self.root_dir, self.run_id) if self.root_dir else None

    # -- what is logged ---------------------------------------------------------------------------

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        records = [
            Metric(_name(self._prefix + name), float(value), now, step or 0)
            for name, value in metrics.items()
        ]
        self.experiment.log_batch(self.run_id, metrics=records, **self._synchronous)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        try:
            with _few_retries():
                client, run_id = self.experiment, self.run_id
                self._known = self._known or dict(client.get_run(run_id).data.params)
        except MlflowException as error:
            why = hide_passwords(" ".join(str(_first_cause(error)).split())[:200])
            raise MisconfigurationException(
                f"MLFlowLogger cannot log to {hide_passwords(self._tracking_uri)}: {why}\n"
                f"Start its server, correct `tracking_uri`, or set {TRIES} to wait for longer."
            ) from None  # MLflow's error may show a password
        texts = {
            _name(name): str(value)[:LONGEST] for name, value in flat(as_mapping(params)).items()
        }
        fresh = {name: text for name, text in texts.items() if name not in self._known}
        # Only new ones: MLflow refuses to change a parameter.
        records = [Param(name, text) for name, text in fresh.items()]
        for start in range(0, len(records), AT_ONCE):
            part = records[start : start + AT_ONCE]
            client.log_batch(run_id, params=part, **self._synchronous)
        self._known |= fresh

    def finalize(self, status: str) -> None:
        if self._version is None:
            return
        super().finalize(status)
        self.experiment.set_terminated(self.run_id, ENDED.get(status, status.upper()))

    def send_checkpoint(self, file: Path, aliases: list[str], about: dict[str, Any]) -> None:
        client, run_id, folder = self.experiment, self.run_id, file.stem
        client.log_artifact(run_id, str(file), folder)
        client.log_text(run_id, str(aliases), f"{folder}/aliases.txt")
        client.log_dict(run_id, about, f"{folder}/metadata.yaml")


@contextmanager
def _few_retries() -> Iterator[None]:
    """Let MLflow retry for some seconds, unless the variable is set: by default its retries take four minutes."""
    before = os.environ.get(TRIES)
    os.environ.setdefault(TRIES, "3")
    try:
        yield
    finally:
        if before is None:
            del os.environ[TRIES]


def _first_cause(error: BaseException) -> BaseException:
    """The first error in the chain, such as a refused connection."""
    return _first_cause(error.__context__) if error.__context__ else error


def _name(name: str) -> str:
    """A name that MLflow accepts: other characters become spaces."""
    return re.sub(r"[^a-zA-Z0-9_/. -]", " ", name)


def _default_uri(folder: str) -> str:
    """The URI of an existing file store in the folder; else of a database: MLflow creates no file stores any more."""
    files = any(Path(folder).glob("*/meta.yaml"))
    return f"file:{folder}" if files else f"sqlite:///{folder}/mlflow.db"
