"""TensorBoardLogger: event files that TensorBoard reads."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import nn

from scaffold_runtime.data import evaluation_mode, move_data_to_device
from scaffold_runtime.errors import warn
from scaffold_runtime.extras import require
from scaffold_runtime.loggers.logger import FolderLogger, flat


class TensorBoardLogger(FolderLogger):
    """Write scalars, hyperparameters and graphs as TensorBoard events.

    Args:
        save_dir: the folder under which experiments are kept.
        name: the experiment; "" puts runs directly into `save_dir`.
        version: the run; the next free number if not given.
        log_graph: log the model's graph; the module needs `example_input_array`.
        default_hp_metric: log a placeholder metric with the hyperparameters, so that they show up.
        prefix: put before every name.
        sub_dir: a folder inside the run folder for the event files.
        kwargs: passed to torch's SummaryWriter.

    Raises:
        MissingExtra: when something is written and `tensorboard` is not installed.
    """

    _open_writer: Any = None  # not copied with the logger

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._log_graph, self._default_hp_metric = log_graph, default_hp_metric
        self._sub_dir, self._kwargs = sub_dir, kwargs
        self._next_step = 0

    @property
    def log_dir(self) -> str:
        folder = super().log_dir
        return os.path.join(folder, self._sub_dir) if self._sub_dir else folder

    @property
    def experiment(self) -> Any:
        """torch's SummaryWriter, opened when first used."""
        if self._open_writer is None:
            require("tensorboard", "scaffold-runtime[tensorboard]", "TensorBoardLogger")
            from torch.utils.tensorboard import SummaryWriter

            # Absolute: it reopens its file for each write, perhaps from another working directory.
            self._open_writer = SummaryWriter(os.path.abspath(self.log_dir), **self._kwargs)
        return self._open_writer

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        writer = self.experiment
        self._next_step = max(self._next_step, (step or 0) + 1)
        for name, value in metrics.items():
            add = writer.add_scalars if isinstance(value, dict) else writer.add_scalar
            add(self._prefix + name, value, step)

    def log_hyperparams(
        self,
        params: Any = None,
        metrics: Any = None,
        step: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Write hyperparameters, together with `metrics` (a dict or one number) of a step."""
        super().log_hyperparams(params)
        if metrics is None and self._default_hp_metric:
            metrics = {"hp_metric": -1}
        if isinstance(metrics, (int, float)):
            metrics = {"hp_metric": metrics}
        if not metrics:
            return
        writer = self.experiment
        from torch.utils.tensorboard.summary import hparams  # needs tensorboard

        for name, value in metrics.items():
            writer.add_scalar(name, value, step or 0)
        for summary in hparams(flat(self.hparams), dict(metrics)):
            writer._get_file_writer().add_summary(summary)

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        sample = getattr(model, "example_input_array", None) if input_array is None else input_array
        if not self._log_graph or sample is None:
            return
        if divider := getattr(model, "_divider", None):  # torch cannot trace gathering of weights
            warn(f"TensorBoardLogger: no graph is logged, since {divider} shards the weights.")
            return
        sample = move_data_to_device(sample, getattr(model, "device", "cpu"))
        with evaluation_mode(model), torch.no_grad(), warnings.catch_warnings():
            # torch's writer uses torch.jit.trace; the class of its warning differs between releases.
            warnings.filterwarnings("ignore", "`torch.jit.trace")
            self.experiment.add_graph(model, sample)

    def save(self) -> None:
        if self._open_writer is not None:
            self._open_writer.flush()

    def state_dict(self) -> dict[str, Any]:
        return {"next_step": self._next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have TensorBoard ignore what earlier files contain from this step on."""
        self._next_step = state.get("next_step", 0)
        self._kwargs.setdefault("purge_step", self._next_step)

    def finalize(self, status: str) -> None:
        self.save()
        if self._open_writer is not None:
            self._open_writer.close()
            self._open_writer = None
        super().finalize(status)
