"""All text in one file: written once, memory-mapped by every process."""

import os
import random
import sysconfig
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor
from torch.utils.data import Dataset


def files_of(source: str) -> list[Path]:
    """Modules of Python's standard library, or all files in a folder."""
    if source == "stdlib":
        return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    files = sorted(path for path in Path(source).rglob("*") if path.is_file())
    if not files:
        raise MisconfigurationException(
            f"data.source is {source!r}: choose stdlib, or a folder with files of text."
        )
    return files


def write_corpus(source: str, cache: str, seed: int) -> Path:
    """Concatenate all files in random order, unless that file already exists."""
    files = files_of(source)
    sizes = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files
    ]
    path = Path(cache, sha256(repr((seed, sizes)).encode()).hexdigest()[:16] + ".bin")
    if not path.exists():
        random.Random(seed).shuffle(files)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(b"\n".join(file.read_bytes() for file in files))
        partial.replace(path)  # written atomically
    return path


def read_corpus(source: str, cache: str, seed: int) -> list[np.ndarray]:
    """Training, validation and test bytes, memory-mapped."""
    corpus = np.memmap(write_corpus(source, cache, seed), np.uint8, "r")
    held_out = len(corpus) // 50
    return np.split(corpus, [len(corpus) - 2 * held_out, len(corpus) - held_out])


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `context` bytes; the targets are the same bytes, shifted by one."""

    def __init__(self, text: np.ndarray, context: int) -> None:
        self.text, self.context = text, context
        if len(text) <= context:
            raise MisconfigurationException(
                f"{len(text)} bytes are too few for a context of {context}: "
                "lower data.context or bring more text."
            )

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.context
        window = self.text[start : start + self.context + 1].astype(np.int64)
        return torch.from_numpy(window[:-1]), torch.from_numpy(window[1:])
