"""Trainer arguments of earlier Lightning versions, and what replaces them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from scaffold_runtime.errors import MisconfigurationException, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")

IN_ITS_PLACE = {
    "amp_backend": 'precision="16-mixed"',
    "amp_level": 'precision="16-mixed"',
    "auto_lr_find": "`Tuner(trainer).lr_find(model)`",
    "auto_scale_batch_size": "`Tuner(trainer).scale_batch_size(model)`",
    "auto_select_gpus": 'devices="auto"',
    "checkpoint_callback": "enable_checkpointing=..., and a ModelCheckpoint in callbacks=[...]",
    "distributed_backend": "strategy=...",
    "flush_logs_every_n_steps": "logger=CSVLogger(..., flush_logs_every_n_steps=...)",
    "gpus": 'accelerator="gpu", devices=...',
    "ipus": "accelerator=..., devices=...",
    "log_gpu_memory": "callbacks=[DeviceStatsMonitor()]",
    "move_metrics_to_cpu": "nothing: logged values are small",
    "multiple_trainloader_mode": "CombinedLoader(loaders, mode=...)",
    "num_processes": 'accelerator="cpu", devices=...',
    "prepare_data_per_node": "an attribute of the module or data module",
    "process_position": "callbacks=[TQDMProgressBar(process_position=...)]",
    "progress_bar_refresh_rate": "callbacks=[TQDMProgressBar(refresh_rate=...)], or enable_progress_bar=False",
    "reload_dataloaders_every_epoch": "reload_dataloaders_every_n_epochs=1",
    "replace_sampler_ddp": "use_distributed_sampler=...",
    "resume_from_checkpoint": "`trainer.fit(model, ckpt_path=...)`",
    "stochastic_weight_avg": "callbacks=[StochasticWeightAveraging(swa_lrs=...)]",
    "terminate_on_nan": "detect_anomaly=True",
    "tpu_cores": 'accelerator="tpu", devices=...',
    "track_grad_norm": "`self.log_dict(grad_norm(self, norm_type=2))` in `on_before_optimizer_step`",
    "truncated_bptt_steps": "manual optimization",
    "weights_save_path": "default_root_dir=...",
    "weights_summary": "enable_model_summary=..., or callbacks=[ModelSummary(max_depth=...)]",
}


def explained(init: Callable[Concatenate[T, P], None]) -> Callable[Concatenate[T, P], None]:
    """Decorate an `__init__`: the error for an unknown argument names it and suggests a replacement.

    Raises:
        MisconfigurationException: instead of Python's TypeError.
    """
    known = inspect.signature(init).parameters

    @wraps(init)
    def checked(self: T, /, *args: P.args, **given: P.kwargs) -> None:
        for name in (name for name in given if name not in known):
            place = IN_ITS_PLACE.get(name)
            meant = f" Write: {place}" if place else did_you_mean(name, known)
            raise MisconfigurationException(f"Trainer has no argument `{name}`.{meant}")
        init(self, *args, **given)

    return checked
