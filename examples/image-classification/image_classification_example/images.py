"""Sources of images: scikit-learn's digits, files of MNIST or CIFAR-10, or a folder.

mnist    path/{train,t10k}-images-idx3-ubyte and -labels-idx1-ubyte, also as .gz
cifar10  path/data_batch_1.bin ... data_batch_5.bin, test_batch.bin (the binary version)
folder   path/<class>/<image>, in any format that Pillow reads
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scaffold_runtime.errors import MisconfigurationException
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset, random_split

FOLDER_SIZE = 32  # height and width to which the images of a folder are resized
Item = tuple[Tensor, int]


def split_images(source: str, path: str, seed: int) -> list:
    """Training, validation and test images; MNIST and CIFAR-10 have test sets."""
    generator = torch.Generator().manual_seed(seed)
    if source in ("digits", "folder"):
        images = read_digits() if source == "digits" else ImageFolder(Path(path))
        return random_split(images, [0.7, 0.15, 0.15], generator)
    if source not in ("mnist", "cifar10"):
        raise MisconfigurationException(
            f"data.source is {source!r}: choose digits, mnist, cifar10 or folder."
        )
    read = read_mnist if source == "mnist" else read_cifar10
    train, val = random_split(read(Path(path), True), [0.9, 0.1], generator)
    return [train, val, read(Path(path), False)]


class Images(Dataset[Item]):
    """Images in memory: uint8 (N, C, H, W), returned as floats from 0 to 1."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.tensor(images), labels.tolist()
        self.classes = max(self.labels, default=-1) + 1
        self.names = [str(number) for number in range(self.classes)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        return self.images[index] / 255, self.labels[index]


class ImageFolder(Dataset[Item]):
    """One folder per class; images are read from disk when needed."""

    def __init__(self, folder: Path) -> None:
        folders = sorted(each for each in folder.glob("*/") if each.is_dir())
        self.classes, self.names = len(folders), [each.name for each in folders]
        self.files = [file for each in folders for file in sorted(each.iterdir())]
        self.labels = [n for n, each in enumerate(folders) for _ in each.iterdir()]
        self.ids = [file.relative_to(folder).as_posix() for file in self.files]
        if not self.files:
            raise MisconfigurationException(
                f"there are no images in {folder}: it should hold one folder per class."
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        file, label = self.files[index], self.labels[index]
        try:
            with Image.open(file) as photo:
                image = photo.convert("RGB").resize((FOLDER_SIZE, FOLDER_SIZE))
        except OSError as e:
            raise MisconfigurationException(f"{file} is no valid image: {e}") from None
        return torch.tensor(np.array(image)).permute(2, 0, 1) / 255, label


def read_digits() -> Images:
    """1,797 handwritten digits of 8 x 8 pixels, shipped with scikit-learn."""
    digits = load_digits()
    return Images((digits.images[:, None] * 255 / 16).astype(np.uint8), digits.target)


def read_mnist(folder: Path, train: bool) -> Images:
    name = "train" if train else "t10k"
    images = read_idx(folder / f"{name}-images-idx3-ubyte")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise MisconfigurationException(
            f"labels {labels.shape} do not fit images {images.shape} in {folder}."
        )
    return Images(images[:, None], labels)


def read_idx(file: Path) -> np.ndarray:
    """An array in MNIST's IDX format: 0, 0, 8 (uint8), rank, shape, then the data."""
    data = read(file)
    rank = data[3] if data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data[4:][: 4 * rank], ">u4").tolist()
    if not rank or len(data) != 4 + 4 * rank + math.prod(shape):
        raise MisconfigurationException(f"{file} is not a complete IDX file of bytes.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_cifar10(folder: Path, train: bool) -> Images:
    """Rows of 3073 bytes: the class, then 3 x 32 x 32 for the image."""
    rows, train_files = [], [f"data_batch_{number}" for number in range(1, 6)]
    for name in train_files if train else ["test_batch"]:
        data = np.frombuffer(read(folder / f"{name}.bin"), np.uint8)
        if not len(data) or len(data) % 3073:
            raise MisconfigurationException(f"{folder / name}.bin is not complete.")
        rows.append(data.reshape(-1, 3073))
    table = np.concatenate(rows)
    return Images(table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0])


def read(file: Path) -> bytes:
    gz = file.with_name(file.name + ".gz")
    try:
        return file.read_bytes() if file.exists() else gzip.decompress(gz.read_bytes())
    except FileNotFoundError:
        raise MisconfigurationException(
            f"there is no {file}: download it, or set data.path to its folder."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise MisconfigurationException(f"{gz} cannot be read: {error}") from None
