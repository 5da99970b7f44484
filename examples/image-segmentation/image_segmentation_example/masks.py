"""Sources of images with masks: drawn shapes, or two folders."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor
from torch.utils.data import Dataset, random_split

Item = tuple[Tensor, Tensor]


def split_masks(source: str, size: int, seed: int) -> list:
    """Training, validation and test images with masks."""
    generator = torch.Generator().manual_seed(seed)
    data = Shapes(size, seed) if source == "shapes" else MaskFolder(Path(source), size)
    return random_split(data, [0.7, 0.15, 0.15], generator)


class Shapes(Dataset[Item]):
    """Bright discs and squares to segment and thin lines to ignore, on noise."""

    def __init__(self, size: int, seed: int, count: int = 800) -> None:
        self.size, self.seed, self.count = size, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        rng = random.Random(self.seed * 1_000_003 + index)
        size, mask = self.size, Image.new("L", (self.size, self.size))
        image = mask.copy()
        for _ in range(3):
            ends = [rng.randrange(size) for _ in range(4)]
            ImageDraw.Draw(image).line(ends, rng.randint(60, 200), width=1)
        for _ in range(rng.randint(1, 3)):
            x, y, r = (
                rng.randrange(size),
                rng.randrange(size),
                rng.randint(4, 9),
            )
            shape = rng.choice(["ellipse", "rectangle"])
            for canvas, colour in ((image, rng.randint(60, 200)), (mask, 255)):
                getattr(ImageDraw.Draw(canvas), shape)(
                    (x - r, y - r, x + r, y + r), colour
                )
        noise = np.random.default_rng([self.seed, index]).normal(0, 25, (size, size))
        pixels = torch.tensor(np.array(image) + noise, dtype=torch.float32) / 255
        return pixels[None], to_tensor(mask)


class MaskFolder(Dataset[Item]):
    """`images/NAME.*` and `masks/NAME.*`, where a mask is white on black."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        masks = {path.stem: path for path in sorted(folder.glob("masks/[!.]*"))}
        images = {path.stem: path for path in sorted(folder.glob("images/[!.]*"))}
        if not images:
            raise MisconfigurationException(
                f"there are no files in {folder / 'images'}: set data.source to "
                "shapes, or to a folder with images/ and masks/."
            )
        unpaired = sorted(images.keys() ^ masks.keys())
        if unpaired:
            raise MisconfigurationException(
                f"{unpaired[0]} is not in both images/ and masks/ of {folder}."
            )
        self.files = [(images[name], masks[name]) for name in images]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        image, mask = (self.open(file) for file in self.files[index])
        return to_tensor(image), (to_tensor(mask) > 0.5).float()

    def open(self, file: Path) -> Image.Image:
        try:
            with Image.open(file) as image:
                return image.convert("L").resize((self.size, self.size))
        except OSError as error:
            raise MisconfigurationException(
                f"{file} is no valid image: {error}"
            ) from None


def to_tensor(image: Image.Image) -> Tensor:
    """Floats from 0 to 1, (1, height, width)."""
    return torch.tensor(np.array(image))[None] / 255
