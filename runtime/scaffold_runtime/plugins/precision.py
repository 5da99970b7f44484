"""Precisions as plugins: `Trainer(plugins=MixedPrecision("bf16-mixed", "cuda"))`.

`Trainer(precision="bf16-mixed")` does the same; a plugin also accepts your own gradient scaler.
"""

from __future__ import annotations

import torch

from scaffold_runtime.errors import MisconfigurationException, check_choice
from scaffold_runtime.precision import Precision, ScaledPrecision, select_precision

__all__ = ["DoublePrecision", "HalfPrecision", "MixedPrecision", "Precision"]


def MixedPrecision(  # noqa: N802 - Lightning's name
    precision: str, device: str, scaler: torch.amp.GradScaler | None = None
) -> Precision:
    """ "16-mixed" or "bf16-mixed" on a type of device, with `scaler` for the former.

    Raises:
        MisconfigurationException: for another precision, or a scaler with "bf16-mixed".
    """
    check_choice("MixedPrecision", "precision", precision, "16-mixed", "bf16-mixed")
    if precision == "16-mixed":
        return ScaledPrecision(torch.device(device), scaler)
    if scaler is not None:
        raise MisconfigurationException(
            "MixedPrecision('bf16-mixed', scaler=...): bfloat16 does not underflow, so it takes no scaler."
        )
    return select_precision(precision, torch.device(device))


def HalfPrecision(precision: str = "16-true") -> Precision:  # noqa: N802 - Lightning's name
    """ "16-true" or "bf16-true": weights and arithmetic in 16 bits."""
    check_choice("HalfPrecision", "precision", precision, "16-true", "bf16-true")
    return select_precision(precision, torch.device("cpu"))


def DoublePrecision() -> Precision:  # noqa: N802 - Lightning's name
    """ "64-true": weights and arithmetic in 64 bits."""
    return select_precision("64-true", torch.device("cpu"))
