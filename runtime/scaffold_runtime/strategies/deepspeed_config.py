"""DeepSpeed's configuration: read from a dict or a file, and completed with what the trainer decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from scaffold_runtime.errors import MisconfigurationException

FORMATS = {  # the trainer's precision: DeepSpeed's name for it, and the dtype it computes in
    "32-true": ("", torch.float32),
    "bf16-mixed": ("bf16", torch.bfloat16),
    "bf16-true": ("bf16", torch.bfloat16),
    "16-mixed": ("fp16", torch.float16),
    "16-true": ("fp16", torch.float16),
}
SAMPLES, WINDOW = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"


def read_config(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """DeepSpeed's configuration from a dict or a JSON file.

    Raises:
        MisconfigurationException: if there is no such file, or no JSON object in it, or it has a part that
            belongs in `configure_optimizers`.
    """
    try:
        given = config if isinstance(config, Mapping) else json.loads(Path(config).read_bytes())
        read = deepcopy(dict(given))
    except (OSError, ValueError, TypeError) as error:
        raise MisconfigurationException(
            f"DeepSpeedStrategy(config={str(config)!r}) cannot be read: {error}. Give a dict, or the path of a "
            "file with a JSON object."
        ) from error
    for key in ("optimizer", "scheduler"):
        if key in read:
            raise MisconfigurationException(
                f"DeepSpeed's configuration has the key {key!r}: leave it out, and return it from "
                "`configure_optimizers` (DeepSpeed's own optimizers are in `deepspeed.ops`)."
            )
    return read


def stage_of(config: dict[str, Any]) -> int:
    """The ZeRO stage; 0 if the configuration does not set it."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def complete_config(given: dict[str, Any], trainer: Any) -> dict[str, Any]:
    """The configuration with what the trainer decides, which may be missing or "auto" in `given`.

    Raises:
        MisconfigurationException: if the two contradict each other, or DeepSpeed cannot do what the trainer
            was asked for.
    """
    config, clip = deepcopy(given), trainer.gradient_clip_val
    if trainer.precision not in FORMATS:
        raise MisconfigurationException(
            f"DeepSpeed does not train in precision={trainer.precision!r}: choose {', '.join(FORMATS)}."
        )
    if clip is not None and trainer.gradient_clip_algorithm == "value":
        raise MisconfigurationException(
            "DeepSpeed clips by norm only: leave gradient_clip_algorithm='value' out."
        )
    if FORMATS[trainer.precision][0] == "fp16" and not stage_of(config):
        raise MisconfigurationException(
            f"DeepSpeed does not scale losses at stage 0, which precision={trainer.precision!r} needs: take stage 1, "
            "or precision='bf16-mixed'."
        )
    for name in ("bf16", "fp16"):
        wanted = FORMATS[trainer.precision][0] == name
        _decide(config.setdefault(name, {}), "enabled", wanted, f"precision={trainer.precision!r}")
    window = trainer.accumulate_grad_batches
    _decide(config, WINDOW, window, f"accumulate_grad_batches={window}")
    if clip is not None:
        _decide(config, "gradient_clipping", clip, f"gradient_clip_val={clip}")
    elif config.get("gradient_clipping", "auto") == "auto":
        config["gradient_clipping"] = 0.0  # DeepSpeed would clip at 1
    _count_samples(config, window * trainer.world_size)
    # The user chose the optimizer: let DeepSpeed accept any.
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    return {key: value for key, value in config.items() if value != "auto"}


def _decide(config: dict[str, Any], key: str, value: Any, argument: str) -> None:
    given = config.get(key, "auto")
    if given not in ("auto", value):
        raise MisconfigurationException(
            f"DeepSpeed's configuration says {key!r}: {given!r}, but Trainer({argument}) says otherwise. "
            "Leave it out of the configuration: the trainer decides."
        )
    config[key] = value


def _count_samples(config: dict[str, Any], batches: int) -> None:
    """DeepSpeed counts samples for its messages only; the loader decides how many there are in a batch."""
    total, each = config.pop("train_batch_size", "auto"), config.get(SAMPLES, "auto")
    if each == "auto":
        each = 1 if total == "auto" else total / batches
    if total not in ("auto", each * batches) or each != int(each):
        raise MisconfigurationException(
            f"DeepSpeed's configuration says 'train_batch_size': {total} and {SAMPLES!r}: {each}, but a step takes "
            f"{batches} batches (processes times accumulate_grad_batches). Leave out 'train_batch_size'."
        )
    config[SAMPLES] = int(each)
