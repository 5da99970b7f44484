"""Sources of images with boxes: digits on a canvas, or files in COCO format.

An item is an image (3, size, size) from 0 to 1, and the objects in it (most, 5): class
and box (left, top, right, bottom) in pixels. Rows of -1 are padding.
"""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scaffold_runtime.errors import MisconfigurationException
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset, random_split

from object_detection_example.coco import CocoFolder

Item = tuple[Tensor, Tensor]
COUNTS = (1000, 200, 200)  # number of training, validation and test scenes


def split_scenes(source: str, size: int, seed: int) -> tuple[list, tuple[str, ...]]:
    """Training, validation and test images, and the names of the classes."""
    if size % 4 or size < 32:
        raise MisconfigurationException(
            f"data.size is {size}: give a multiple of 4, at least 32."
        )
    if source == "digits":
        return [Scenes(size, seed, part) for part in range(3)], Scenes.names
    data = CocoFolder(Path(source), size)
    generator = torch.Generator().manual_seed(seed)
    return random_split(data, [0.7, 0.15, 0.15], generator), data.names


class Scenes(Dataset[Item]):
    """One to four handwritten digits on a noisy background, different in each split."""

    names = tuple("0123456789")
    most = 4

    def __init__(self, size: int, seed: int, part: int) -> None:
        self.size, self.key, self.count = size, (seed, part), COUNTS[part]
        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.target))
        ends = [len(order) * 7 // 10, len(order) * 17 // 20]
        rows = np.array_split(order, ends)[part]
        self.images, self.labels = digits.images[rows] * 15.9, digits.target[rows]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        rng = random.Random(hash((*self.key, index)))
        size, objects = self.size, torch.full((self.most, 5), -1.0)
        background = [rng.uniform(0, 0.4) for _ in range(3)]
        canvas = np.tile(np.array(background), (size, size, 1))
        for row in range(rng.randint(1, self.most)):
            number = rng.randrange(len(self.labels))
            box = self.draw(canvas, self.images[number], objects, rng)
            if box is not None:
                objects[row] = torch.tensor([self.labels[number], *box])
        noise = np.random.default_rng([*self.key, index]).normal(0, 0.05, canvas.shape)
        image = torch.tensor(canvas + noise, dtype=torch.float32)
        return image.permute(2, 0, 1).clamp(0, 1), objects

    def draw(
        self,
        canvas: np.ndarray,
        digit: np.ndarray,
        objects: Tensor,
        rng: random.Random,
    ) -> tuple[int, int, int, int] | None:
        """Draw a digit at a free place; its box, or None if there is no room."""
        side = rng.randint(14, 26)
        ink = (
            np.array(Image.fromarray(digit.astype(np.uint8)).resize((side, side))) / 255
        )
        (top, bottom), (left, right) = (
            np.flatnonzero((ink > 0.3).any(axis))[[0, -1]] for axis in (1, 0)
        )
        colour = np.array([rng.uniform(0.5, 1) for _ in range(3)])
        for _ in range(20):
            x, y = (rng.randrange(self.size - side) for _ in range(2))
            box = x + left, y + top, x + right + 1, y + bottom + 1
            apart = (objects[:, 1] >= box[2]) | (objects[:, 3] <= box[0])
            apart |= (objects[:, 2] >= box[3]) | (objects[:, 4] <= box[1])
            if apart.all():
                place = canvas[y : y + side, x : x + side]
                place += ink[..., None] * (colour - place)
                return box
        return None
