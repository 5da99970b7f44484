"""The state of a model that its `state_dict` does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scaffold_runtime.errors import warn


def plain_name(name: str) -> str:
    """The name of a parameter or submodule without what torch.compile adds."""
    return name.replace("_orig_mod.", "")


def transient(module: nn.Module, several: bool = False) -> dict[str, Any]:
    """Non-persistent buffers (with `several` processes all buffers, which differ between ranks), metrics within an
    epoch, and which submodules are in evaluation mode and which parameters frozen."""
    left_out = () if several else module.state_dict().keys()
    return {
        "buffers": {plain_name(k): b for k, b in module.named_buffers() if k not in left_out},
        "metrics": {name: _metric_state(part) for name, part in metric_parts(module).items()},
        "evaluating": [
            plain_name(name) for name, part in module.named_modules() if not part.training
        ],
        "frozen": [
            plain_name(name) for name, p in module.named_parameters() if not p.requires_grad
        ],
    }


def restore_transient(module: nn.Module, state: dict[str, Any] | None) -> None:
    """Restore what `transient` gathered; checkpoints of other libraries have none of it."""
    if state is None:
        return
    fill_buffers(module, state["buffers"])
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            kept = state["buffers"].get(plain_name(name), buffer)
            if kept.shape == buffer.shape:
                buffer.copy_(kept)
            else:  # because of other settings, or because training resizes it
                warn(
                    f"the buffer `{name}` has {buffer.numel()} elements, and had {kept.numel()} in the checkpoint: it "
                    "starts over. Register what training fills as None."
                )
    parts = metric_parts(module)
    for name, kept in state["metrics"].items():
        if name in parts:
            _restore_metric(parts[name], kept)
    evaluating, frozen = set(state["evaluating"]), set(state["frozen"])
    for name, part in module.named_modules():
        part.training = plain_name(name) not in evaluating
    for name, parameter in module.named_parameters():
        parameter.requires_grad = plain_name(name) not in frozen


def fill_buffers(module: nn.Module, kept: Mapping[str, Any]) -> None:
    """Create the buffers that are None or empty until training fills them, with the values in `kept`."""
    values = {plain_name(name): value for name, value in kept.items()}
    for name, part in module.named_modules():
        for key, buffer in part._buffers.items():
            value = values.get(plain_name(f"{name}.{key}".lstrip(".")))
            if value is not None and (buffer is None or not buffer.numel()):
                part._buffers[key] = value.clone()


def metric_parts(module: nn.Module) -> dict[str, Any]:
    """The torchmetrics Metrics inside a model, by name."""
    parts = dict(module.named_modules())
    for part in parts.values():
        if hasattr(part, "compute_groups"):
            part.items()  # makes a MetricCollection update the state its members share
    return {
        plain_name(name): part for name, part in parts.items() if hasattr(part, "_update_count")
    }


def _metric_state(metric: Any) -> dict[str, Any]:
    states = {name: getattr(metric, name) for name in metric._defaults}
    kept = {
        name: list(value) if isinstance(value, list) else value for name, value in states.items()
    }
    return {"states": kept, "updates": metric._update_count}


def _restore_metric(metric: Any, kept: dict[str, Any]) -> None:
    for name, value in kept["states"].items():
        setattr(metric, name, value)
    metric._update_count, metric._computed = kept["updates"], None
