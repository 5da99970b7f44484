"""The Trainer's arguments: each is checked and converted before anything starts."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch

from scaffold_runtime.errors import MisconfigurationException, check_choice

Limit = int | float


def limit(name: str, value: Limit | None, default: Limit = 1.0) -> Limit:
    """A number of batches (int, at least 0) or a fraction (float from 0 to 1).

    Raises:
        MisconfigurationException: for anything else.
    """
    if value is None:
        return default
    value = whole(value)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if fits and (isinstance(value, int) or value <= 1.0):
        return value
    raise MisconfigurationException(
        f"Trainer({name}={value!r}): give a number of batches (an int, at least 0) "
        "or a fraction of them (a float from 0.0 to 1.0)."
    )


def whole(value: Any) -> Any:
    """Convert a whole float above 1 to an int: 2.0 is a number of batches, 1.0 a fraction."""
    return int(value) if isinstance(value, float) and value > 1 and value % 1 == 0 else value


def count(name: str, value: Any, least: int, also: tuple[int | str | None, ...] = ()) -> Any:
    """An int of at least `least`, or one of `also`.

    Raises:
        MisconfigurationException: for anything else.
    """
    value = int(value) if isinstance(value, float) and value.is_integer() else value  # 1e5
    if value in also and not isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    others = "".join(f" or {other!r}" for other in also)
    raise MisconfigurationException(
        f"Trainer({name}={value!r}): give an integer of at least {least}{others}."
    )


def seconds(name: str, value: str | timedelta | dict[str, int]) -> float:
    """A duration: "DD:HH:MM:SS", a timedelta, or a dict of its arguments, in seconds.

    Raises:
        MisconfigurationException: for anything else.
    """
    if isinstance(value, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value.strip()):
        days, hours, minutes, rest = map(int, value.split(":"))
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=rest).total_seconds()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        with suppress(TypeError):
            return timedelta(**value).total_seconds()
    raise MisconfigurationException(
        f"{name}={value!r} is not a duration: write 'DD:HH:MM:SS' (for instance '00:12:00:00' for twelve "
        "hours), a timedelta, or a dict such as {'hours': 12}."
    )


def interval(value: Any, every_n_epoch: int | None) -> tuple[Limit, float | None]:
    """`val_check_interval` as (fraction or batches, seconds if it is a duration).

    Raises:
        MisconfigurationException: if it is none of these, or a fraction that crosses epochs.
    """
    if isinstance(value, (str, timedelta, dict)):
        return 1.0, seconds("val_check_interval", value)
    value = 1.0 if value is None else whole(value)
    if isinstance(value, float) and 0.0 <= value <= 1.0:
        if every_n_epoch is None:
            raise MisconfigurationException(
                f"Trainer(check_val_every_n_epoch=None, val_check_interval={value}): counting batches across "
                "epochs needs an integer val_check_interval."
            )
        return value, None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, None
    raise MisconfigurationException(
        f"Trainer(val_check_interval={value!r}): give a number of training batches (int), "
        "a fraction of an epoch (float up to 1.0), or a duration."
    )


def clipping(value: Any, algorithm: Any) -> None:
    """Check the clipping arguments.

    Raises:
        MisconfigurationException: naming the one that is wrong.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if value is not None and not good:
        raise MisconfigurationException(
            f"Trainer(gradient_clip_val={value!r}): give a number of at least 0, or None."
        )
    check_choice("Trainer", "gradient_clip_algorithm", algorithm, None, "norm", "value")


def max_epochs(given: int | None, limited: bool) -> Any:
    """The limit; if none is given, -1 if training is `limited` otherwise, else None, which a fit replaces."""
    return count("max_epochs", -1 if given is None and limited else given, 0, (-1, None))


def check_barebones(**given: Any) -> None:
    """Refuse what a bare trainer goes without.

    Raises:
        MisconfigurationException: naming the first argument that asks for such a thing.
    """
    for name, value in given.items():
        if value:
            raise MisconfigurationException(
                f"Trainer(barebones=True, {name}={value!r}) contradict each other: leave one out."
            )


def set_determinism(deterministic: bool | str | None, benchmark: bool | None) -> None:
    """Tell torch which algorithms it may use.

    Raises:
        MisconfigurationException: if `deterministic` is not an allowed value.
    """
    check_choice("Trainer", "deterministic", deterministic, None, True, False, "warn")
    if deterministic is not None:
        torch.use_deterministic_algorithms(bool(deterministic), warn_only=deterministic == "warn")
        if deterministic:
            # cuBLAS is deterministic only with a fixed workspace; this is torch's documented setting.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if benchmark is not None or deterministic:
        torch.backends.cudnn.benchmark = bool(benchmark) and not deterministic
