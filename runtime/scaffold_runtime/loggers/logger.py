"""The base classes of loggers, of those that write into a folder, and of those that send a run to a service."""

from __future__ import annotations

import abc
import enum
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from scaffold_runtime.errors import ScaffoldRuntimeError, check_local, hide_passwords, warn
from scaffold_runtime.hparams import as_mapping
from scaffold_runtime.plain import opened
from scaffold_runtime.ranks import rank_zero_only

# Options of ModelCheckpoint that are sent with a checkpoint.
OPTIONS = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "every_n_train_steps")


class Logger(abc.ABC):
    """Records metrics and hyperparameters of a run. Subclass it to write your own."""

    failed: bool = False  # set by `attempt`, so that a broken logger is reported once
    told: bool = False  # whether the version was given
    group_separator: str = "/"  # for the names that callbacks log

    @property
    @abc.abstractmethod
    def name(self) -> str | None:
        """The name of the experiment."""

    @property
    @abc.abstractmethod
    def version(self) -> int | str | None:
        """The number or name of this run within the experiment."""

    @abc.abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record metrics of one step. They are plain floats; `step` is the x axis."""

    @abc.abstractmethod
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Record the hyperparameters of the run: a dict or Namespace."""

    @property
    def save_dir(self) -> str | None:
        """The folder under which experiments are kept."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The folder of this run; None if the logger has no folder of its own."""
        return None

    @property
    def root_dir(self) -> str | None:
        """The folder that holds the folders of this experiment's runs."""
        return None

    @property
    def experiment(self) -> Any:
        """The underlying library's object, for features that this interface lacks."""
        return None

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Record the graph of the model, if the logger can show one."""

    def save(self) -> None:
        """Flush what is buffered."""

    def finalize(self, status: str) -> None:
        """The run ended: "success" or "failed"."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint was written."""

    def state_dict(self) -> dict[str, Any]:
        """The position in the log, saved in checkpoints after everything was flushed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The run resumes from a checkpoint: what was logged after it will be logged again."""

    def decide_version(self, version: int | str) -> None:
        """Continue the run with this version, unless another was chosen already."""

    def follow(self, first: Logger) -> None:
        """Use the version of `first`, the first of several loggers with a folder."""

    def attempt(self, what: str, *arguments: Any, **named: Any) -> None:
        """Call the method `what` during a run. If it fails, training continues: a warning is issued once, and the
        logger is called again next time. Errors of the runtime, such as a missing package, are still raised.
        """
        try:
            getattr(self, what)(*arguments, **named)
        except ScaffoldRuntimeError:
            raise
        except Exception as error:
            first, self.failed = not self.failed, True
            if first:
                reason = hide_passwords(f"{type(error).__name__}: {error}")
                warn(
                    f"{type(self).__name__}.{what} failed ({reason}). Training continues; what "
                    "this logger could not record is missing there. This is not reported again."
                )


class Nothing:
    """Accepts every call and every attribute, and does nothing."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Nothing:
        return self

    def __getitem__(self, key: Any) -> Nothing:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def rank_zero_experiment(function: Callable[..., Any]) -> Callable[..., Any]:
    """For the `experiment` of your own logger: on ranks other than 0 it is `Nothing`."""
    return rank_zero_only(function, default=Nothing())


class RunLogger(Logger):
    """Base of loggers with a version: the given one, or else one that they choose.

    Args:
        version: the run, if it is known already.
        prefix: put before every name.
    """

    def __init__(self, version: int | str | None, prefix: str) -> None:
        self._version, self.told = version, version is not None
        self._prefix = f"{prefix}-" if prefix else ""
        self._first: Logger | None = None  # the first of several, whose run folder the others share

    @property
    def version(self) -> int | str:
        """The run's number or name; chosen when it is first needed."""
        if self._version is None:
            self._version = self._choose_version()
        return self._version

    def _choose_version(self) -> int | str:
        raise NotImplementedError

    def follow(self, first: Logger) -> None:
        self._first = first

    def decide_version(self, version: int | str) -> None:
        if self._version is None and self._first is None:
            self._version = version

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open when the logger is copied to another process."""
        return {k: None if k.startswith("_open") else v for k, v in vars(self).items()}


class FolderLogger(RunLogger):
    """Base of loggers that write into `save_dir/name/version_N`, the next free number."""

    def __init__(
        self,
        save_dir: str | os.PathLike[str] | None,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(version, prefix)
        check_local(f"{type(self).__name__}(save_dir)", save_dir)
        self._save_dir = os.path.expandvars(os.path.expanduser(save_dir or os.getcwd()))
        self._name = name or ""
        self.hparams: dict[str, Any] = {}

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def name(self) -> str:
        return self._name

    @property
    def root_dir(self) -> str:
        return os.path.join(self.save_dir, self.name)

    def _choose_version(self) -> int | str:
        """The version of the first of several loggers, or else the next free number, which is claimed."""
        shared = self._first.version if self._first is not None else None
        return claim_version(Path(self.root_dir)) if shared is None else shared

    @property
    def log_dir(self) -> str:
        return os.path.join(self.root_dir, run_name(self.version))

    def finalize(self, status: str) -> None:
        if status == "failed" and self._version is not None and not self.told:
            with suppress(OSError):  # removes it only if empty, as when a run was refused
                os.rmdir(self.log_dir)

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Write `hparams.yaml`, including what was logged before."""
        self.hparams.update(as_mapping(params or {}))
        file = Path(self.log_dir) / "hparams.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(yaml.safe_dump(plain_tree(self.hparams), sort_keys=False).encode())


class ServiceLogger(RunLogger):
    """Base of loggers that send a run to a service, and checkpoints with it.

    Args:
        prefix: put before every name.
        log_model: send checkpoints: False, True (at the end), or "all" (as they are saved).
        version: the run's id, if it is known already.
    """

    def __init__(self, prefix: str, log_model: str | bool, version: str | None = None) -> None:
        super().__init__(version, prefix)
        self._log_model = log_model
        self._sent: dict[str, float] = {}  # checkpoints: when they were written
        self._checkpoints: Any = None

    @abc.abstractmethod
    def send_checkpoint(self, file: Path, aliases: list[str], about: dict[str, Any]) -> None:
        """Send a new or changed checkpoint, with the aliases "latest" and perhaps "best"; `about` has its score."""

    def decide_version(self, version: int | str) -> None:
        if isinstance(version, str):  # a number is the version of a folder
            super().decide_version(version)

    def __getstate__(self) -> dict[str, Any]:
        """Keep the run's id."""
        return {**super().__getstate__(), "_version": self.version}

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        if self._log_model == "all" or (self._log_model and checkpoint_callback.save_top_k == -1):
            self._send_checkpoints(checkpoint_callback)
        elif self._log_model:
            self._checkpoints = checkpoint_callback

    def finalize(self, status: str) -> None:
        if status == "success" and self._checkpoints is not None:
            self._send_checkpoints(self._checkpoints)

    def _send_checkpoints(self, callback: Any) -> None:
        last, best = callback.last_model_path, callback.best_model_path
        scores = {
            last: callback.current_score,
            best: callback.best_model_score,
            **callback.best_k_models,
        }
        written = {path: os.stat(path).st_mtime for path in scores if os.path.exists(path)}
        options = {name: getattr(callback, name) for name in OPTIONS}
        for path in sorted(written, key=written.__getitem__):  # the newest last, to be "latest"
            if self._sent.get(path) != written[path]:
                score = None if scores[path] is None else float(scores[path])
                about = {
                    "score": score,
                    "original_filename": Path(path).name,
                    "ModelCheckpoint": options,
                }
                self.send_checkpoint(Path(path), ["latest"] + ["best"] * (path == best), about)
                self._sent[path] = written[path]


def run_name(version: int | str | None) -> str:
    """The name of the folder of a run; "" if the run has no version."""
    return f"version_{version}" if isinstance(version, int) else str(version or "")


def claim_version(root: Path) -> int:
    """Create the next free `version_N` folder under `root` and return N; safe against parallel runs."""
    root.mkdir(parents=True, exist_ok=True)
    found = [re.fullmatch(r"version_(\d+)", entry.name) for entry in root.iterdir()]
    number = max((int(match[1]) for match in found if match), default=-1) + 1
    while True:
        try:
            (root / f"version_{number}").mkdir()
            return number
        except FileExistsError:
            number += 1


def plain_tree(params: Any) -> Any:
    """Hyperparameters as nested dicts and lists of plain values; anything unusual as text."""
    params = opened(params, resolve=True)
    if isinstance(params, dict):
        return {str(key): plain_tree(value) for key, value in params.items()}
    if isinstance(params, (list, tuple)):
        return [plain_tree(item) for item in params]
    if isinstance(params, enum.Enum):
        return plain_tree(params.value)
    if callable(getattr(params, "item", None)) and getattr(params, "size", None) == 1:
        params = params.item()  # a NumPy scalar
    known = (bool, int, float, str, type(None))
    return params if type(params) in known else str(params)


def flat(params: dict[str, Any], join: str = "/") -> dict[str, Any]:
    """Nested hyperparameters as one level, keys joined by "/"; lists and unusual values as text."""
    flattened: dict[str, Any] = {}
    for key, value in params.items():
        value = opened(value, resolve=True)
        if isinstance(value, dict) and value:
            inner = flat(value, join).items()
            flattened.update({f"{key}{join}{name}": item for name, item in inner})
        else:
            plain = isinstance(value, (bool, int, float, str))
            flattened[str(key)] = value if plain else str(value)
    return flattened
