"""Images and boxes in COCO format: FOLDER/annotations.json and FOLDER/images/."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor
from torch.utils.data import Dataset


class CocoFolder(Dataset[tuple[Tensor, Tensor]]):
    """Images are read from disk and resized when needed."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.names, self.items = read_annotations(folder / "annotations.json")
        if not self.items:
            raise MisconfigurationException(f"{folder}/annotations.json has no images.")
        self.most = max([1, *(len(boxes) for _, boxes in self.items)])
        for name, _ in self.items:
            if not (folder / "images" / name).is_file():
                raise MisconfigurationException(
                    f"there is no {folder / 'images' / name}, which "
                    "annotations.json names."
                )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name, boxes = self.items[index]
        file = self.folder / "images" / name
        try:
            with Image.open(file) as opened:
                photo = opened.convert("RGB")
        except OSError as error:
            raise MisconfigurationException(
                f"{file} is no valid image: {error}"
            ) from None
        scale = torch.tensor([1, *(self.size / side for side in photo.size * 2)])
        objects = torch.full((self.most, 5), -1.0)
        if boxes:
            objects[: len(boxes)] = torch.tensor(boxes) * scale
        pixels = np.array(photo.resize((self.size, self.size)))
        return torch.tensor(pixels).permute(2, 0, 1) / 255, objects


def read_annotations(file: Path) -> tuple[tuple[str, ...], list[tuple[str, list]]]:
    """Names of classes; for each image its file name, and its classes and boxes."""
    if not file.is_file():
        raise MisconfigurationException(
            f"there is no {file}: set data.source to digits, or to a folder with "
            "annotations.json and images/."
        )
    try:
        table: Any = json.loads(file.read_text(encoding="utf-8"))
        classes = sorted((each["id"], each["name"]) for each in table["categories"])
        labels = {key: label for label, (key, _) in enumerate(classes)}
        items: dict = {each["id"]: (each["file_name"], []) for each in table["images"]}
        for annotation in table["annotations"]:
            if annotation["category_id"] not in labels:
                raise ValueError(f"there is no category {annotation['category_id']}")
            x, y, width, height = map(float, annotation["bbox"])
            box = [labels[annotation["category_id"]], x, y, x + width, y + height]
            if not annotation.get("iscrowd"):  # `iscrowd`: one box around many objects
                items[annotation["image_id"]][1].append(box)
    except (KeyError, TypeError, ValueError) as error:
        raise MisconfigurationException(
            f"{file} is not in COCO format: {type(error).__name__}: {error}."
        ) from None
    return tuple(str(name) for _, name in classes), list(items.values())
