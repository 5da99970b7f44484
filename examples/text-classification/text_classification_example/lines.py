"""Sources of lines of text, and batches of them."""

import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch
from scaffold_runtime.errors import MisconfigurationException
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from text_classification_example.fold import one_fold

MODULES = "argparse ast datetime decimal doctest pathlib subprocess tarfile".split()
LONGEST = 120  # maximum bytes per line
Item = tuple[Tensor, int]
Line = tuple[int, str, int]  # row, text, class


class Lines(Dataset[Item]):
    """Texts with labels; an item is the bytes of a text, plus one, and its label.

    `ids` are row numbers in the file.
    """

    def __init__(self, lines: list[Line], names: list[str]) -> None:
        self.ids = [row for row, _, _ in lines]
        self.texts = [text for _, text, _ in lines]
        self.labels, self.names = [label for _, _, label in lines], names
        self.lengths = [min(len(text.encode()), LONGEST) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Item:
        codes = list(self.texts[index].encode()[:LONGEST])
        return torch.tensor(codes) + 1, self.labels[index]


def pad(items: list[Item]) -> list[Tensor]:
    """A batch: bytes (batch, longest), padded with 0, and labels (batch,)."""
    texts = pad_sequence([text for text, _ in items], batch_first=True)
    return [texts, torch.tensor([label for _, label in items])]


class Buckets(Sampler[list[int]]):
    """Batches of texts of similar length, for little padding; reshuffled each epoch."""

    def __init__(self, lengths: list[int], batch_size: int) -> None:
        self.lengths, self.batch_size = lengths, batch_size

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        noise = (torch.rand(len(self.lengths)) * 8).tolist()  # shuffles similar lengths
        order = sorted(range(len(noise)), key=lambda i: self.lengths[i] + noise[i])
        starts = torch.randperm(len(self)).tolist()
        for start in starts:
            yield order[start * self.batch_size : (start + 1) * self.batch_size]


def split_lines(source: str, seed: int, fold: int | None, folds: int) -> list[Lines]:
    """Training, validation and test lines, without overlap."""
    lines, names = read_stdlib() if source == "stdlib" else read_csv(source)
    random.Random(seed).shuffle(lines)
    count, labels = len(lines), [label for _, _, label in lines]
    train, val = range(count * 7 // 10), range(count * 7 // 10, count * 85 // 100)
    rows = [*one_fold(train, val, labels, fold, folds), range(val.stop, count)]
    return [Lines([lines[row] for row in part], names) for part in rows]


def read_stdlib() -> tuple[list[Line], list[str]]:
    """Lines of at least 20 characters that occur in only one of the modules."""
    seen: dict[str, set[int]] = {}
    for label, module in enumerate(MODULES):
        for line in module_text(module).splitlines():
            seen.setdefault(line.strip(), set()).add(label)
    lines = sorted(
        (text, min(labels)) for text, labels in seen.items() if len(labels) == 1
    )
    long = [(text, label) for text, label in lines if len(text) >= 20]
    return [(row, *line) for row, line in enumerate(long)], MODULES


def module_text(name: str) -> str:
    """The source of a module: a file, or a folder in some versions of Python."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py", *sorted((folder / name).glob("*.py"))]
    return "\n".join(
        file.read_text(encoding="utf-8") for file in files if file.exists()
    )


def read_csv(source: str) -> tuple[list[Line], list[str]]:
    if not source.endswith(".csv"):
        raise MisconfigurationException(
            f"data.source is {source!r}: choose stdlib, or a file that ends in .csv."
        )
    try:
        table = pandas.read_csv(source, dtype=str)
    except FileNotFoundError:
        raise MisconfigurationException(f"there is no file {source}.") from None
    except ValueError as error:
        raise MisconfigurationException(f"{source} cannot be read: {error}") from None
    if not {"text", "label"} <= {*table.columns}:
        raise MisconfigurationException(f"{source} needs the columns text and label.")
    table = table[["text", "label"]].dropna().drop_duplicates("text")
    table = table[table["text"] != ""]
    if len(table) < 10:
        raise MisconfigurationException(f"{source} has {len(table)} texts: too few.")
    labels = table["label"].astype("category").cat
    rows = zip(table.index.tolist(), table["text"], labels.codes.tolist(), strict=True)
    return list(rows), labels.categories.tolist()
