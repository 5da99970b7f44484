"""WandbLogger: Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.extras import require
from scaffold_runtime.hparams import as_mapping
from scaffold_runtime.loggers.logger import ServiceLogger, plain_tree

STEP = "trainer/global_step"


class WandbLogger(ServiceLogger):
    """Send a run to Weights & Biases, or with `offline=True` write it to disk for `wandb sync`.

    The API key is read by `wandb` itself (`wandb login`, or WANDB_API_KEY); it never passes through here.
    If an earlier logger in the list writes into a folder, W&B's files are in that run folder, and a resumed run
    continues under the same id.

    Args:
        name: the run's display name.
        save_dir: the folder that holds `wandb/`.
        version: the run's id; a new one if not given.
        offline: write to disk only.
        dir: the same as `save_dir`.
        id: the same as `version`.
        anonymous: passed to `wandb.init`, if the installed version still takes it.
        project: the project; WANDB_PROJECT, or "lightning_logs".
        log_model: upload checkpoints: False, True (at the end), or "all" (as they are saved).
        experiment: a run that is open already.
        prefix: put before every name.
        checkpoint_name: the name of the checkpoint artifact; `model-<id>` if not given.
        add_file_policy: "mutable" or "immutable": whether wandb copies a checkpoint before it uploads it.
        kwargs: passed to `wandb.init`: `entity`, `group`, `tags`, `notes`, ...

    Raises:
        MissingExtra: if `wandb` is not installed.
        MisconfigurationException: if checkpoints are to be uploaded offline.
    """

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | os.PathLike[str] = ".",
        version: str | None = None,
        offline: bool = False,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - wandb's own word
        id: str | None = None,  # noqa: A002 - wandb's own word
        anonymous: bool | None = None,
        project: str | None = None,
        log_model: str | bool = False,
        experiment: Any = None,
        prefix: str = "",
        checkpoint_name: str | None = None,
        add_file_policy: str = "mutable",
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, log_model, id or version)
        _wandb()  # raises at once if it is missing
        if offline and log_model:
            raise MisconfigurationException(
                f"WandbLogger(offline=True, log_model={log_model!r}): nothing can be uploaded offline. "
                "Leave one out."
            )
        self._run_name, self._offline = name, offline
        self._save_dir = os.path.expanduser(dir if dir is not None else save_dir)
        self._project = project or os.environ.get("WANDB_PROJECT", "lightning_logs")
        self._checkpoint_name, self._policy = checkpoint_name, add_file_policy
        self._kwargs = kwargs if anonymous is None else {**kwargs, "anonymous": anonymous}
        self._open_run: Any = experiment

    # -- the run ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The run's id, chosen when it is first needed."""
        return str(super().version if self._open_run is None else self._open_run.id)

    def _choose_version(self) -> str:
        """The id of the run whose files are in the shared run folder, if this run is resumed, or else a new one."""
        runs = Path(self.save_dir).glob("wandb/*run-*/run-*.wandb")
        files = sorted(runs, key=os.path.getmtime) if self._first is not None else []
        return files[-1].stem.removeprefix("run-") if files else secrets.token_hex(4)

    @property
    def save_dir(self) -> str:
        """The folder that holds `wandb/`."""
        shared = self._first.log_dir if self._first is not None else None
        return shared or self._save_dir

    @property
    def root_dir(self) -> str:
        return os.path.join(self._save_dir, self._project)

    @property
    def log_dir(self) -> str:
        return os.path.join(self.root_dir, self.version)

    @property
    def experiment(self) -> Any:
        """wandb's run, opened when first used."""
        if self._open_run is None:
            self._open_run = self._start_run()
        return self._open_run

    def _start_run(self) -> Any:
        wandb = _wandb()
        if wandb.run is not None:
            warn(
                f"a W&B run ({wandb.run.id}) is open in this process, so WandbLogger continues it. "
                "Call `wandb.finish()` first if that is not intended."
            )
            return wandb.run
        Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        mode = {"mode": "offline"} if self._offline else {}
        # Absolute: W&B's own process may have another working directory.
        folder = os.path.abspath(self.save_dir)
        if self._first is not None and self._run_name is None:
            self._run_name = f"{self._first.name}-{self._first.version}"
        settings: dict[str, Any] = {"dir": folder, "project": self._project, "id": self.version}
        settings |= {**mode, "name": self._run_name, "resume": "allow", **self._kwargs}
        try:
            run = wandb.init(**settings)
        except wandb.errors.UsageError as error:  # not logged in, mostly
            raise MisconfigurationException(
                f"WandbLogger: {error} Without an account: WandbLogger(offline=True), or WANDB_MODE=offline."
            ) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    # -- what is logged ---------------------------------------------------------------------------

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        named: dict[str, Any] = {f"{self._prefix}{name}": v for name, v in metrics.items()}
        self.experiment.log(named if step is None else {**named, STEP: step})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.experiment.config.update(plain_tree(as_mapping(params)), allow_val_change=True)

    def watch(
        self,
        model: nn.Module,
        log: str | None = "gradients",
        log_freq: int = 100,
        log_graph: bool = True,
    ) -> None:
        """Log histograms of gradients, parameters or both ("all") every so many batches."""
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table: rows of values or text, or a data frame."""
        table = _wandb().Table(columns=columns, data=data, dataframe=dataframe)
        self.log_metrics({key: table}, step)

    log_text = log_table

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Log images (tensors, arrays, PIL images or paths); lists in `kwargs` have one item for each."""
        self._log_media(key, "Image", images, step, kwargs)

    def log_audio(
        self, key: str, audios: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Log sounds (arrays or paths); lists in `kwargs` (`sample_rate`, ...) have one item for each."""
        self._log_media(key, "Audio", audios, step, kwargs)

    def log_video(
        self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Log videos (tensors or paths); lists in `kwargs` (`fps`, `format`, ...) have one item for each."""
        self._log_media(key, "Video", videos, step, kwargs)

    def _log_media(
        self,
        key: str,
        kind: str,
        items: Sequence[Any],
        step: int | None,
        options: Mapping[str, Sequence[Any]],
    ) -> None:
        if not isinstance(items, list):
            raise TypeError(f"log_{kind.lower()} takes a list, got {type(items).__name__}.")
        for name, values in options.items():
            if len(values) != len(items):
                raise ValueError(f"there are {len(items)} items, but {len(values)} of {name!r}.")
        each = [{name: values[i] for name, values in options.items()} for i in range(len(items))]
        make = getattr(_wandb(), kind)
        media = [make(item, **one) for item, one in zip(items, each, strict=True)]
        self.log_metrics({key: media}, step)  # type: ignore[dict-item] # wandb takes them, too

    # -- checkpoints ------------------------------------------------------------------------------

    def send_checkpoint(self, file: Path, aliases: list[str], about: dict[str, Any]) -> None:
        name = self._checkpoint_name or f"model-{self.version}"
        artifact = _wandb().Artifact(name, type="model", metadata=about)
        add = artifact.add_dir if file.is_dir() else artifact.add_file
        add(str(file), name="model.ckpt", policy=self._policy)
        self.experiment.log_artifact(artifact, aliases=aliases)

    @staticmethod
    def download_artifact(
        artifact: str,
        save_dir: str | os.PathLike[str] | None = None,
        artifact_type: str | None = None,
        use_artifact: bool = True,
    ) -> str:
        """Fetch an artifact, such as "model-abc:best", into a folder, and return that folder."""
        wandb = _wandb()
        noted = wandb.run is not None and use_artifact
        source = wandb.run.use_artifact if noted else wandb.Api().artifact
        found = source(artifact, type=artifact_type)
        return str(found.download(root=None if save_dir is None else os.fspath(save_dir)))

    def use_artifact(self, artifact: str, artifact_type: str | None = None) -> Any:
        """Note that this run uses an artifact, and return it."""
        return self.experiment.use_artifact(artifact, type=artifact_type)


def _wandb() -> Any:
    """The package, imported when it is used."""
    return require("wandb", "scaffold-runtime[wandb]", "WandbLogger")
