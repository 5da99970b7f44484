"""Training, validation and test images, with cross validation if `fold` is set."""

from torch.utils.data import Subset

from image_classification_example.fold import one_fold
from image_classification_example.images import split_images


def split(source: str, path: str, seed: int, fold: int | None, folds: int) -> list:
    train, val, test = split_images(source, path, seed)
    images = train.dataset
    rows = one_fold(train.indices, val.indices, images.labels, fold, folds)
    return [*(Subset(images, part) for part in rows), test]
