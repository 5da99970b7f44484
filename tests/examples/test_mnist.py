"""The tutorial code people know runs with only its import line changed."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
VISION = ROOT / ".torchvision"
SCRIPT = ROOT / "examples" / "mnist" / "mnist.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not VISION.exists(), reason="torchvision is not in .torchvision: `make test` puts it there"
    ),
]


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's own format: two zero bytes, type (8: unsigned byte), rank, sizes, then the bytes."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    with gzip.open(path.with_name(path.name + ".gz"), "wb") as packed:
        packed.write(path.read_bytes())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real digits in MNIST's format and size: 8 x 8 pixels, enlarged to 28 x 28."""
    folder = tmp_path_factory.mktemp("mnist")
    raw = folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = load_digits()
    images = np.kron(digits.images / 16 * 255, np.ones((1, 3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    for name, part in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        write_idx(raw / f"{name}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{name}-labels-idx1-ubyte", digits.target[part])
    return folder


def tutorial(workplace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(VISION), "OMP_NUM_THREADS": "1"}
    shim = Path(__file__).with_name("without_torchvision_ops.py")
    return subprocess.run(
        [sys.executable, str(shim), str(SCRIPT), *arguments],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_tutorial_trains_and_resumes(workplace: Path) -> None:
    """Precision 16, accumulation, clipping, both callbacks, then `ckpt_path=` to resume."""
    first = tutorial(workplace, "--accelerator", "cpu")

    assert first.returncode == 0, first.stderr
    assert "Epoch 5/5" in first.stdout
    accuracy = float(first.stdout.rsplit("test_acc", 1)[1].split()[0])
    assert accuracy > 0.8
    assert (workplace / "checkpoints" / "last.ckpt").exists()
    assert (workplace / "checkpoints" / "epoch=4-step=30.ckpt").exists()

    again = tutorial(workplace, "--accelerator", "cpu", "--resume", "checkpoints/last.ckpt")

    assert again.returncode == 0, again.stderr
    assert "Epoch" not in again.stdout  # all five epochs were trained already
    assert float(again.stdout.rsplit("test_acc", 1)[1].split()[0]) == accuracy


def test_a_missing_gpu_is_named(workplace: Path) -> None:
    """`accelerator="gpu"` on a machine without one says what was found and what to write."""
    refused = tutorial(workplace, "--accelerator", "gpu")

    assert refused.returncode != 0
    assert "this machine has only: cpu" in refused.stderr
    assert "accelerator='cpu'" in refused.stderr
