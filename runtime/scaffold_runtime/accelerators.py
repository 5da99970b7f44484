"""Kinds of devices: whether this machine has them, how many, and their `torch.device`."""

from __future__ import annotations

import abc
import contextlib
import gc
import os
import sys
from glob import glob
from importlib.util import find_spec
from typing import Any

import torch

from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.extras import require

# Look for GPUs through NVML: asking CUDA itself would initialize it, after which no process can be forked.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def xla(part: str = "") -> Any:
    """torch_xla, or a part of it such as ".runtime".

    Raises:
        MissingExtra: if it is not installed.
    """
    return require(f"torch_xla{part}", "scaffold-runtime[tpu]", "accelerator='tpu'")


class Accelerator(abc.ABC):
    """A kind of hardware. Subclass it to write your own; those below are final."""

    name: str

    @staticmethod
    @abc.abstractmethod
    def is_available() -> bool:
        """Whether this machine has such a device that torch can use."""

    @staticmethod
    def auto_device_count() -> int:
        """Number of devices; one, unless overridden."""
        return 1

    def device(self, index: int) -> torch.device:
        """The torch device with this index."""
        return torch.device(self.name, index)

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Numbers worth logging, by name; memory in bytes."""
        return {}


class CPUAccelerator(Accelerator):
    """The CPU; always available."""

    name = "cpu"

    @staticmethod
    def is_available() -> bool:
        return True

    def device(self, index: int) -> torch.device:
        return torch.device("cpu")


class CUDAAccelerator(Accelerator):
    """NVIDIA (or ROCm) GPUs."""

    name = "cuda"

    @staticmethod
    def is_available() -> bool:
        return torch.cuda.is_available()

    @staticmethod
    def auto_device_count() -> int:
        return torch.cuda.device_count()

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        return torch.cuda.memory_stats(device)


class MPSAccelerator(Accelerator):
    """The GPU of Apple silicon."""

    name = "mps"

    @staticmethod
    def is_available() -> bool:
        return torch.backends.mps.is_available()

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        return {"mps.allocated_bytes": torch.mps.current_allocated_memory()}


class XLAAccelerator(Accelerator):
    """TPUs, through torch_xla; `PJRT_DEVICE=CPU` stands in for them."""

    name = "tpu"

    @staticmethod
    def is_available() -> bool:
        """Whether "auto" selects it: if there is a TPU. Does not import torch_xla, which takes seconds."""
        named = os.environ.get("PJRT_DEVICE", "TPU" if glob("/dev/accel*") else "")
        return named == "TPU" and find_spec("torch_xla") is not None

    @staticmethod
    def auto_device_count() -> int:
        xla()
        if os.environ.get("PJRT_DEVICE") == "CPU":
            return int(os.environ.get("CPU_NUM_DEVICES", 1))
        return int(xla("._internal.tpu").num_available_devices())

    def device(self, index: int) -> torch.device:
        return torch.device("xla", index)


ACCELERATORS: dict[str, type[Accelerator]] = {  # in the order in which "auto" tries them
    kind.name: kind for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator, CPUAccelerator)
}


def select_accelerator(choice: str | Accelerator) -> Accelerator:
    """Turn the Trainer's `accelerator` argument into an accelerator that is available.

    Raises:
        MisconfigurationException: for an unknown name, or for hardware this machine lacks.
    """
    if isinstance(choice, Accelerator):
        return choice
    available = [name for name, kind in ACCELERATORS.items() if kind.is_available()]
    if choice == "auto" or (choice == "gpu" and available[0] in ("cuda", "mps")):
        return ACCELERATORS[available[0]]()
    if choice == "tpu":
        xla()  # torch_xla may also drive another device
    if choice in available or choice == "tpu":
        return ACCELERATORS[choice]()
    if choice == "gpu" or choice in ACCELERATORS:
        raise MisconfigurationException(
            f"accelerator={choice!r} was asked for, but this machine has only: {', '.join(available)}. "
            f"Write accelerator={available[0]!r}, or accelerator='auto' to take the best one found."
        )
    raise MisconfigurationException(
        f"accelerator={choice!r} is unknown. Choose 'auto', 'gpu', {', '.join(map(repr, ACCELERATORS))}, "
        "or pass an Accelerator."
    )


def interactive() -> bool:
    """Whether this is a notebook or an interactive session, so there is no script to start again."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def parse_devices(devices: int | str | list[int], accelerator: Accelerator) -> list[int]:
    """Turn the Trainer's `devices` argument into device indices.

    Accepts a count (`2`), indices (`[0, 3]`, `"0,3"`), and everything there is (`-1`, `"auto"`); "auto" is one GPU
    in a notebook, where more need processes forked before CUDA is used.

    Raises:
        MisconfigurationException: for anything else, or for devices this machine lacks.
    """
    found = accelerator.auto_device_count()
    if devices == "auto" and found > 1 and accelerator.name == "cuda" and interactive():
        warn(f"one of {found} GPUs is used, since this is a notebook; devices={found} uses all.")
        return [0]
    wanted = _device_indices(devices, found)
    beyond = [index for index in wanted if index >= found and accelerator.name != "cpu"]
    if not wanted or beyond or len(set(wanted)) < len(wanted):
        how = "Write a count, a list of distinct indices, -1 for all, or 'auto'."
        if beyond and found == 1 and "SLURM_PROCID" in os.environ:
            how = "Tasks of srun see only their own GPU with --gpus-per-task: use --gpus-per-node (or --gres=gpu:N)."
        raise MisconfigurationException(
            f"devices={devices!r} does not fit: accelerator '{accelerator.name}' has {found} device(s) here. {how}"
        )
    return wanted


def _device_indices(devices: int | str | list[int], found: int) -> list[int]:
    if isinstance(devices, str):
        text = devices.strip()
        if text == "auto":
            return list(range(found))
        if "," in text:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            return [int(part) for part in parts] if all(p.isdigit() for p in parts) else []
        return _device_indices(int(text), found) if text.lstrip("-").isdigit() else []
    if isinstance(devices, bool):
        return []
    if isinstance(devices, int):
        return list(range(found if devices == -1 else devices))
    listed = list(devices) if isinstance(devices, (list, tuple)) else []
    return listed if all(type(index) is int and index >= 0 for index in listed) else []


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    known = any(part in str(error) for part in OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or known


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """The first `num_devices` GPUs (-1: all) that accept a tensor, unlike one in exclusive mode that is in use.

    Raises:
        MisconfigurationException: if fewer do.
    """
    usable: list[int] = []
    for index in range(torch.cuda.device_count()):
        if len(usable) == num_devices:
            break  # trying one more would take memory of it
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=torch.device("cuda", index))
            usable.append(index)
    if len(usable) < num_devices:
        raise MisconfigurationException(
            f"find_usable_cuda_devices({num_devices}): {len(usable)} are usable, of {torch.cuda.device_count()} here."
        )
    return usable


def free_memory() -> None:
    """Free memory that a failed attempt left behind."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
