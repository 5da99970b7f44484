"""A GPU for tests, where torch was built without: `pytest -p stand_in`, before anything imports torch.

`stand_in.cpp`, compiled here at first use, is the device; this module shows it to `torch.cuda`. With a torch that was
built for GPUs nothing is done.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".cpp")
TORCH = Path(str(find_spec("torch").origin)).parent  # type: ignore[union-attr] # torch is installed


def compiled() -> Path:
    """The device as a library: made anew when its source or torch has changed."""
    key = hashlib.sha256(SOURCE.read_bytes() + version("torch").encode()).hexdigest()[:16]
    library = Path(sys.prefix) / f"stand-in-gpu-{key}.so"
    if not library.exists():
        half_made = library.with_suffix(f".{os.getpid()}.part")
        include, lib = TORCH / "include", TORCH / "lib"
        command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-isystem{include}"]
        command += [f"-isystem{include}/torch/csrc/api/include", str(SOURCE), "-o", str(half_made)]
        subprocess.run([*command, f"-L{lib}", "-ltorch_cpu", "-lc10"], check=True)
        half_made.replace(library)  # whole, or not there: workers may compile it at the same time
    return library


class AnyGroup(type):
    def __instancecheck__(cls, group: Any) -> bool:
        return "Gloo" in type(group).__name__


class NCCL(metaclass=AnyGroup):
    """Its collectives go by way of the gloo of main memory; of its own it needs the place only."""

    class Options:
        pass

    def __new__(cls, store: Any, rank: int, size: int, options: Any) -> Any:
        from torch.distributed import ProcessGroupGloo

        return ProcessGroupGloo(store, rank, size, timeout=options._timeout)


def install() -> Any:
    """Show the device to torch, which must not have been imported before: it asks once whether there is one.

    What is returned counts: `stand_in_waits()` times that the host waited, `stand_in_unrecorded()` blocks of memory
    that another stream used and their own did not know of, `stand_in_limit(bytes)` when memory runs out.
    """
    if "torch" in sys.modules:
        raise RuntimeError("the stand-in must be loaded before torch: use `pytest -p stand_in`")
    ctypes.CDLL(str(TORCH / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    gpu = ctypes.CDLL(str(compiled()))
    for name in ("waits", "unrecorded", "allocated", "peak"):
        getattr(gpu, f"stand_in_{name}").restype = ctypes.c_int64
    gpu.stand_in_limit.argtypes = [ctypes.c_int64]

    import torch
    import torch._dynamo  # while torch is still one without GPUs: it looks for more than there is here
    import torch.cuda as cuda

    c: Any = torch._C
    devices = gpu.stand_in_devices()

    def exchange(index: int) -> int:
        before = gpu.stand_in_device()
        if index >= 0:
            gpu.stand_in_set_device(index)
        return before

    def current_stream(device: Any = None) -> torch.Stream:
        index = device if device is None or isinstance(device, int) else torch.device(device).index
        return c._accelerator_getStream(gpu.stand_in_device() if index is None else index)

    class Stream(torch.Stream):
        def __new__(cls, device: Any = None, priority: int = 0) -> Stream:
            here = torch.device("cuda", gpu.stand_in_device())
            return super().__new__(cls, here if device is None else device)

    said: list[str] = []

    def set_sync_debug_mode(mode: int) -> None:
        if not said:  # as torch does, once
            said.append(
                "Synchronization debug mode is a prototype feature and does not yet detect all"
            )
            warnings.warn(said[0], stacklevel=2)
        gpu.stand_in_refuse(mode)

    def memory_stats(device: Any = None) -> dict[str, int]:
        found = {"current": gpu.stand_in_allocated(), "peak": gpu.stand_in_peak()}
        return {f"allocated_bytes.all.{name}": value for name, value in found.items()}

    def inside(storage: Any) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)

    resize = torch.UntypedStorage.resize_

    def resize_(storage: Any, size: int) -> Any:
        if storage.device.type != "cuda":
            return resize(storage, size)
        torch.ops.stand_in.resize_storage(inside(storage), size)
        return storage

    c._cuda_getDeviceCount = lambda: devices
    c._cuda_init = lambda: None
    c._cuda_getDevice, c._cuda_setDevice = gpu.stand_in_device, gpu.stand_in_set_device
    c._cuda_getCurrentRawStream = lambda index: 0
    c._cuda_set_sync_debug_mode = set_sync_debug_mode
    c._cuda_get_sync_debug_mode = gpu.stand_in_refuses
    c._cuda_synchronize = lambda: c._accelerator_synchronizeDevice(gpu.stand_in_device())
    c._cuda_emptyCache = lambda: None
    c._cuda_resetPeakMemoryStats = lambda index: gpu.stand_in_reset_peak()
    shown = {
        "_cudart": object(),
        "_device_count_nvml": lambda: -1,
        "_exchange_device": exchange,
        "_maybe_exchange_device": exchange,
        "default_generators": tuple(torch.Generator("cuda") for _ in range(devices)),
        "Stream": Stream,
        "Event": lambda enable_timing=False, **_: torch.Event("cuda", enable_timing=enable_timing),
        "current_stream": current_stream,
        "stream": lambda stream: stream,
        "memory_stats": memory_stats,
        "max_memory_allocated": lambda device=None: gpu.stand_in_peak(),
        "memory_allocated": lambda device=None: gpu.stand_in_allocated(),
        "_sleep": lambda cycles: None,
        "get_device_name": lambda device=None: "stand-in GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
    }
    for name, value in shown.items():
        setattr(cuda, name, value)
    import torch.distributed.distributed_c10d as c10d

    c10d.is_nccl_available = torch.distributed.is_nccl_available = lambda: True
    c10d.ProcessGroupNCCL = torch.distributed.ProcessGroupNCCL = NCCL  # type: ignore[attr-defined,misc]
    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign] # torch does so where it was built for GPUs
    torch.UntypedStorage.clone = lambda storage: inside(storage).clone().untyped_storage()  # type: ignore[method-assign]
    return gpu


GPU = None if list((TORCH / "lib").glob("libtorch_cuda*")) else install()
