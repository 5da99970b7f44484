"""Random number generators: seeding them, saving and restoring their state."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from scaffold_runtime.errors import MisconfigurationException

MAX_SEED = 2**32 - 1


def seed_everything(seed: int | None = None, workers: bool = False, verbose: bool = True) -> int:
    """Seed Python, NumPy and torch (all devices) and return the seed.

    Without `seed`, the environment variable PL_GLOBAL_SEED is used, else 0. `workers` is accepted for
    compatibility with Lightning: workers are always seeded here, per sample.

    Raises:
        MisconfigurationException: if the seed is not an integer in [0, 2**32 - 1].
    """
    given = os.environ.get("PL_GLOBAL_SEED", 0) if seed is None else seed
    try:
        value = int(given)
    except (TypeError, ValueError):
        value = -1
    if not 0 <= value <= MAX_SEED:
        raise MisconfigurationException(
            f"seed {given!r} is not an integer between 0 and {MAX_SEED}."
        )
    os.environ["PL_GLOBAL_SEED"] = str(value)  # read by processes started later
    os.environ["PL_SEED_WORKERS"] = str(int(workers))
    seed_all(value)
    return value


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def raw_rng() -> tuple[Any, ...]:
    """The state of every global generator, not yet converted: cheap, since most of these are discarded."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    kinds = ("cuda",) * cuda + ("mps",) * torch.backends.mps.is_available()
    on_gpu = {kind: getattr(torch, kind).get_rng_state() for kind in kinds}
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpu


def rng_state(raw: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """Snapshot every global generator as tensors and plain values, safe to load without pickle."""
    (version, words, gauss), numpy, cpu, on_gpu = raw or raw_rng()
    _, keys, position, has_gauss, cached = numpy
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": cpu,
        **on_gpu,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def computing_alike(call: Callable[[], Any]) -> Callable[[], Any]:
    """A call for a new process, which starts with this process's random state, torch settings and start method."""
    state = rng_state()
    state.pop("cuda", None)  # the new process may have another GPU
    bits = torch.backends.cuda.matmul.fp32_precision  # its older name may refuse to be read
    switches = (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, bits)
    starting = multiprocessing.get_start_method(allow_none=True)
    return partial(_call, torch.initial_seed(), state, switches, starting, call)


def _call(
    seed: int, state: dict[str, Any], switches: Any, starting: Any, call: Callable[[], Any]
) -> Any:
    # By default a spawned process would spawn its data workers too, which then import torch in each epoch.
    multiprocessing.set_start_method(starting, force=True)
    torch.manual_seed(seed)  # for GPUs, which are not initialized yet
    set_rng_state(state)
    deterministic, torch.backends.cudnn.benchmark, bits = switches
    torch.set_deterministic_debug_mode(deterministic)
    torch.set_float32_matmul_precision({"tf32": "high", "bf16": "medium"}.get(bits, "highest"))
    return call()


@contextmanager
def isolate_rng(include_cuda: bool = True) -> Iterator[None]:
    """Restore every global generator after the block; without `include_cuda`, not that of the GPU."""
    state = rng_state()
    if not include_cuda:
        state.pop("cuda", None)
    try:
        yield
    finally:
        set_rng_state(state)
