"""Data of the user's own: small files in the real formats are read, broken ones are clear errors."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from scaffold.cli import main
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException, MissingExtra


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Render a task, and import modules of it."""
    monkeypatch.chdir(tmp_path)

    def render(task: str, *modules: str) -> list[ModuleType]:
        name = "made_" + task.replace("-", "_")
        with pytest.raises(SystemExit):
            main(["new", name, "--task", task, "--defaults", "--no-git"])
        monkeypatch.syspath_prepend(os.fspath(tmp_path / name))
        return [importlib.import_module(f"{name}.{module}") for module in modules]

    yield render
    for name in [name for name in sys.modules if name.startswith("made_")]:
        del sys.modules[name]


def fit(model, data, *callbacks) -> None:
    trainer = Trainer(
        fast_dev_run=True,
        callbacks=[*callbacks],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    assert trainer.global_step >= 1


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def write_mnist(folder: Path, packed: bool) -> None:
    chance = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 10)):
        images = chance.integers(0, 256, (count, 28, 28))
        write_idx(folder / f"{name}-images-idx3-ubyte", images, packed)
        write_idx(folder / f"{name}-labels-idx1-ubyte", np.arange(count) % 10, packed)


def write_cifar(folder: Path) -> None:
    chance = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        rows = chance.integers(0, 256, (10, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(10)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def write_folder(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            colour = (number * 20, 0, 255 if label == "cat" else 0)
            Image.new("RGB", (40, 30), colour).save(folder / label / f"{number}.png")


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files(load, tmp_path, packed):
    data, images, model = load("image-classification", "data", "images", "model")
    write_mnist(tmp_path, packed)
    fit(model.ImageClassifier(), data.ImageDataModule("mnist", str(tmp_path), batch_size=8))
    train, val, test = images.split_images("mnist", str(tmp_path), 0)
    assert (len(train), len(val), len(test)) == (36, 4, 10)
    image, label = test[3]
    assert image.shape == (1, 28, 28)
    assert label == 3


def test_cifar10_files(load, tmp_path):
    data, images, model = load("image-classification", "data", "images", "model")
    write_cifar(tmp_path)
    module = data.ImageDataModule("cifar10", str(tmp_path), batch_size=8)
    fit(model.ImageClassifier(channels=3), module)
    _, _, test = images.split_images("cifar10", str(tmp_path), 0)
    raw = np.frombuffer((tmp_path / "test_batch.bin").read_bytes(), np.uint8).reshape(10, 3073)
    expected = torch.tensor(raw[4, 1:].reshape(3, 32, 32) / 255, dtype=torch.float32)
    torch.testing.assert_close(test[4][0], expected)


def test_a_folder_of_images(load, tmp_path):
    data, images, model = load("image-classification", "data", "images", "model")
    place = tmp_path / "photos"
    place.mkdir()
    write_folder(place)
    fit(
        model.ImageClassifier(classes=2, channels=3),
        data.ImageDataModule("folder", str(place), batch_size=4),
    )
    (place / "cat" / "0.png").write_text("not an image")
    with pytest.raises(MisconfigurationException, match=r"0\.png is no valid image"):
        images.ImageFolder(place)[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + bytes(12) + b"x", "not a complete IDX file"),
        ("train-images-idx3-ubyte", b"<html>", "not a complete IDX file"),
        ("train-images-idx3-ubyte.gz", b"not gzip", "cannot be read"),
    ],
)
def test_broken_mnist_is_one_clear_error(load, tmp_path, name, content, says):
    (images,) = load("image-classification", "images")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MisconfigurationException, match=says):
        images.split_images("mnist", str(tmp_path), 0)


def test_broken_cifar10_is_one_clear_error(load, tmp_path):
    (images,) = load("image-classification", "images")
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(MisconfigurationException, match="is not complete"):
        images.split_images("cifar10", str(tmp_path), 0)


def whole_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((30, 20), 80).save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def labels_of_another_set(folder: Path) -> None:
    write_mnist(folder, False)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(7), False)


def swapped(folder: Path) -> None:
    write_mnist(folder, False)
    shutil.copy(folder / "train-labels-idx1-ubyte", folder / "train-images-idx3-ubyte")


def rotten_gzip(folder: Path) -> None:
    write_mnist(folder, True)
    file = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(file.read_bytes())
    data[200:260] = bytes(60)
    file.write_bytes(data)


def cut_gzip(folder: Path) -> None:
    write_mnist(folder, True)
    cut(folder / "t10k-images-idx3-ubyte.gz")


def one_batch_short(folder: Path) -> None:
    write_cifar(folder)
    (folder / "data_batch_4.bin").unlink()


def cut_image(folder: Path) -> None:
    for number in range(20):
        whole_image(folder / "cat" / f"{number}.png")
        cut(folder / "cat" / f"{number}.png")


def cut_masks(folder: Path) -> None:
    for number in range(20):
        whole_image(folder / "images" / f"{number}.png")
        whole_image(folder / "masks" / f"{number}.png")
        cut(folder / "masks" / f"{number}.png")


def lonely_mask(folder: Path) -> None:
    whole_image(folder / "images" / "a.png")
    whole_image(folder / "masks" / "a.png")
    whole_image(folder / "masks" / "b.png")


def coco(folder: Path, kind: int = 3, images: int = 12) -> None:
    """Files in COCO format: photos of 30 x 20, each with the same box and a crowd box."""
    for number in range(images):
        whole_image(folder / "images" / f"{number}.png")
    box = {"category_id": kind, "bbox": [3, 4, 12, 10], "area": 120, "segmentation": []}
    crowd = {**box, "bbox": [0, 0, 30, 20], "iscrowd": 1}
    table = {
        "info": {"year": 2017},
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "images": [{"id": 90 + n, "file_name": f"{n}.png"} for n in range(images)],
        "annotations": [
            {**each, "id": n, "image_id": 90 + n} for n in range(1, images) for each in (box, crowd)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(table))


def unknown_kind(folder: Path) -> None:
    coco(folder, kind=5)


def cut_photos(folder: Path) -> None:
    coco(folder)
    for file in folder.glob("images/*"):
        cut(file)


def absent_photo(folder: Path) -> None:
    coco(folder)
    (folder / "images" / "7.png").unlink()


def nothing(folder: Path) -> None:
    pass


def holds(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def cut_parquet(folder: Path) -> None:
    pandas.DataFrame({"a": range(40), "goal": range(40)}).to_parquet(folder / "t.parquet")
    cut(folder / "t.parquet")


IMAGES, TABLE, SERIES = "ImageDataModule", "TabularDataModule", "SeriesDataModule"
SCENES = "SceneDataModule"
MANY = "".join(f"{n},{n}\n" for n in range(20))
WRONG = [
    ("image-classification", IMAGES, nothing, {"source": "mnist"}, "there is no .*train-images"),
    ("image-classification", IMAGES, labels_of_another_set, {"source": "mnist"}, "do not fit"),
    ("image-classification", IMAGES, swapped, {"source": "mnist"}, "do not fit"),
    ("image-classification", IMAGES, rotten_gzip, {"source": "mnist"}, "cannot be read"),
    ("image-classification", IMAGES, cut_gzip, {"source": "mnist"}, "t10k.*cannot be read"),
    ("image-classification", IMAGES, one_batch_short, {"source": "cifar10"}, "no .*data_batch_4"),
    ("image-classification", IMAGES, nothing, {"source": "folder"}, "no images in"),
    ("image-classification", IMAGES, cut_image, {"source": "folder"}, "is no valid image"),
    ("image-classification", IMAGES, nothing, {"source": "minst"}, "choose digits, mnist"),
    ("image-segmentation", "MaskDataModule", nothing, {}, "no files in"),
    ("image-segmentation", "MaskDataModule", lonely_mask, {}, "b is not in both"),
    ("image-segmentation", "MaskDataModule", cut_masks, {}, "is no valid image"),
    ("object-detection", SCENES, nothing, {}, "there is no .*annotations.json"),
    (
        "object-detection",
        SCENES,
        holds("annotations.json", "{"),
        {},
        "COCO format: JSONDecodeError",
    ),
    ("object-detection", SCENES, holds("annotations.json", "[]"), {}, "not in COCO format"),
    ("object-detection", SCENES, unknown_kind, {}, "no category 5"),
    (
        "object-detection",
        SCENES,
        holds("annotations.json", '{"categories": [], "images": [], "annotations": []}'),
        {},
        "has no images",
    ),
    ("object-detection", SCENES, absent_photo, {}, "there is no .*7.png, which"),
    ("object-detection", SCENES, cut_photos, {}, "is no valid image"),
    ("language-model", "TextDataModule", nothing, {}, "a folder with files of text"),
    ("language-model", "TextDataModule", holds("a.txt", "ab"), {}, "too few for a context"),
    ("llm-finetuning", "ChatDataModule", nothing, "t.jsonl", "there is no file"),
    ("llm-finetuning", "ChatDataModule", nothing, "t.json", "choose calendar, or a file"),
    ("llm-finetuning", "ChatDataModule", holds("t.jsonl", "\n"), "t.jsonl", "too few"),
    (
        "llm-finetuning",
        "ChatDataModule",
        holds("t.jsonl", '\n{"prompt": "\\ud83d", }'),
        "t.jsonl",
        r"t\.jsonl, line 2: not JSON \(.*, column 2[02]\)",
    ),
    (
        "llm-finetuning",
        "ChatDataModule",
        holds("t.jsonl", "[1]"),
        "t.jsonl",
        "line 1: not a JSON object",
    ),
    ("text-classification", "TextDataModule", nothing, "t.csv", "there is no file"),
    ("text-classification", "TextDataModule", nothing, "t.txt", "ends in .csv"),
    ("text-classification", "TextDataModule", holds("t.csv", ""), "t.csv", "cannot be read"),
    (
        "text-classification",
        "TextDataModule",
        holds("t.csv", "a,b\n1,2"),
        "t.csv",
        "text and label",
    ),
    ("text-classification", "TextDataModule", holds("t.csv", "text,label\n"), "t.csv", "too few"),
    ("tabular", TABLE, nothing, "t.csv", "there is no file"),
    ("tabular", TABLE, nothing, "t.xls", "ends in .csv or .parquet"),
    ("tabular", TABLE, cut_parquet, "t.parquet", "cannot be read"),
    ("tabular", TABLE, holds("t.csv", "a,b\n" + MANY), "t.csv", "no column 'goal'.* a, b"),
    ("tabular", TABLE, holds("t.csv", "a,goal\n1,2\n"), "t.csv", "1 rows: too few"),
    ("tabular", TABLE, holds("t.csv", "a,goal\n"), "t.csv", "t.csv has no rows"),
    ("tabular", TABLE, holds("t.csv", "a,goal\nx,2\n" + MANY), "t.csv", "'a' .* holds text"),
    ("tabular", TABLE, holds("t.csv", "a,goal\n2,\n" + MANY), "t.csv", "'goal' .* gaps in 1 row"),
    ("tabular", TABLE, holds("t.csv", "a,goal\n" + "1,x\n" * 20), "t.csv", "'goal' .* holds text"),
    ("time-series", SERIES, nothing, "t.csv", "there is no file"),
    ("time-series", SERIES, nothing, "t.dat", "co2, sunspots, or a file"),
    ("time-series", SERIES, holds("t.csv", ""), "t.csv", "cannot be read"),
    ("time-series", SERIES, holds("t.csv", "a,b\n" + MANY), "t.csv", "no column 'value'.* a, b"),
    ("time-series", SERIES, holds("t.csv", "a,value\n" + MANY), "t.csv", "too few to forecast"),
    ("time-series", SERIES, holds("t.csv", "a,value\n1,x\n" + MANY), "t.csv", "gaps or text"),
]


def first_batch(data) -> None:
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    ("task", "name", "prepare", "given", "says"),
    WRONG,
    ids=[f"{task}-{says}" for task, _, _, _, says in WRONG],
)
def test_what_is_wrong_is_one_clear_error(load, tmp_path, task, name, prepare, given, says):
    """Before training starts or, for a single broken image, when it is read."""
    (module,) = load(task, "data")
    place = tmp_path / "files"
    place.mkdir()
    prepare(place)
    if isinstance(given, str):
        given = {"source": str(place / given)}
        given |= {"target": "goal"} if task == "tabular" else {}
    elif task == "image-classification":
        given = {**given, "path": str(place)}
    else:
        given = {"source": str(place)}
    data = getattr(module, name)(**given)
    with pytest.raises(MisconfigurationException, match=says) as raised:
        first_batch(data)
    assert str(tmp_path) in str(raised.value) or "choose" in str(raised.value) or "few" in says


@pytest.mark.parametrize("task", ["generative-adversarial", "diffusion", "self-supervised"])
def test_other_image_tasks_read_a_folder(load, tmp_path, task):
    data, model = load(task, "data", "model")
    place = tmp_path / "photos"
    place.mkdir()
    write_folder(place)
    names = {"generative-adversarial": "GAN", "diffusion": "Diffusion", "self-supervised": "SimCLR"}
    sizes = {} if task == "self-supervised" else {"size": 32}
    made = getattr(model, names[task])(channels=3, **sizes)
    fit(made, data.ImageDataModule("folder", str(place), batch_size=4))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_in_files(load, tmp_path, suffix):
    data, model = load("tabular", "data", "model")
    table = pandas.DataFrame({"a": range(40), "b": 1.5, "kind": ["x", "y"] * 20})
    file = tmp_path / f"rows{suffix}"
    table.to_csv(file, index=False) if suffix == ".csv" else table.to_parquet(file)
    module = data.TabularDataModule(str(file), target="kind", classify=True, batch_size=8)
    fit(model.TabularModel(features=2, classes=2), module)
    file.write_bytes(b"\0broken")
    with pytest.raises(MisconfigurationException, match=r"cannot be read|no column|no rows"):
        module.setup("fit")


def passengers(count: int = 120) -> pandas.DataFrame:
    """Columns of all kinds: numbers and text with gaps, rare values, booleans, ids with leading zeros."""
    chance = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "Id": [f"{n:04d}" for n in range(count)],
            "Age": np.where(chance.random(count) < 0.2, np.nan, chance.integers(1, 80, count)),
            "Port": chance.choice(["S", "C", None], count, p=[0.6, 0.3, 0.1]),
            "Ticket": [f"T{n}" for n in range(count)],
            "Alone": chance.random(count) < 0.5,
            "Fate": chance.choice(["lost", "saved"], count),
        }
    )


@pytest.fixture
def table(load, tmp_path):
    """Makes a data module for a table, and sets it up."""
    (data,) = load("tabular", "data")

    def made(frame: pandas.DataFrame, test: pandas.DataFrame | None = None, stage="fit", **more):
        frame.to_csv(tmp_path / "rows.csv", index=False)
        given = {"target": "Fate", "classify": True, "id": "Id", **more}
        if test is not None:
            test.to_csv(tmp_path / "test.csv", index=False)
            given["test"] = str(tmp_path / "test.csv")
        module = data.TabularDataModule(str(tmp_path / "rows.csv"), **given)
        module.setup(stage)
        return module

    return made


def test_columns_of_all_kinds(table):
    """Inputs: Age and its gaps, three values of Port (one is a gap), two of Alone; all values of Ticket are rare."""
    module = table(passengers())
    inputs, goals = module.train.tensors
    assert inputs.shape == (84, 7)
    assert inputs.isfinite().all()
    assert set(inputs[:, 1:].flatten().tolist()) <= {0.0, 1.0}
    assert module.train.names == ["lost", "saved"]
    fates = dict(zip(passengers()["Id"], passengers()["Fate"], strict=True))
    said = [module.train.names[goal] for goal in goals.tolist()]
    assert said == [fates[key] for key in module.train.ids]


def test_only_rows_to_train_on_are_learned_from(table):
    """Whatever the other rows contain, the training inputs are bit-identical."""
    before = table(passengers())
    frame = passengers()
    others = ~frame["Id"].isin(before.train.ids)
    frame.loc[others, "Age"] = 1e6
    frame.loc[others, "Port"] = "Z"
    after = table(frame)
    assert torch.equal(before.train.tensors[0], after.train.tensors[0])
    width = after.train.tensors[0].shape[1]
    assert after.val.tensors[0].shape == (18, width)
    assert not after.val.tensors[0][:, 2:5].any()  # Z was never seen


def test_a_file_to_predict(table):
    """Columns may be in another order, and one row is enough; all rows of the source are for training."""
    test = passengers(300).tail(150).drop(columns="Fate")
    module = table(passengers(), test)
    assert module.test.ids[0] == "0150"
    assert len(module.test.tensors) == 1
    assert len(module.train) + len(module.val) == 120
    turned = table(passengers(), test[test.columns[::-1]])
    assert torch.equal(module.test.tensors[0], turned.test.tensors[0])
    one = table(passengers(), test[:1])
    assert torch.equal(module.test.tensors[0][:1], one.test.tensors[0])


@pytest.mark.parametrize(
    ("change", "change_test", "more", "says"),
    [
        (None, lambda t: t.drop(columns="Age"), {}, r"test\.csv has no column 'Age'"),
        (None, lambda t: t.assign(Age="old"), {}, r"'Age' of .*test\.csv holds text, .*rows\.csv"),
        (None, lambda t: t.drop(columns="Id"), {}, r"test\.csv has no column 'Id'"),
        (None, lambda t: t.assign(Id="7"), {}, r"'Id' of .*test\.csv has '7' in row 1"),
        (lambda t: t.assign(Id="7"), None, {}, r"'Id' of .*rows\.csv has '7' in row 1"),
        (None, lambda t: t.assign(Fate="ill"), {}, r"'Fate' of .*test\.csv has 'ill'.*lost, saved"),
        (None, lambda t: t.drop(columns="Fate"), {"stage": "test"}, r"test\.csv has no 'Fate' to"),
        (None, None, {"classify": False}, r"'Fate' of .* holds text, .*classify to true"),
        (
            lambda t: t.where(t["Id"] != "0003"),
            None,
            {"id": None},
            r"gaps in 1 rows, the first is 3",
        ),
        (None, None, {"fold": 5}, r"fold is 5 and data\.folds 5"),
        (None, None, {"fold": 0, "folds": 1}, r"data\.folds 1: 102 rows allow"),
    ],
)
def test_files_that_do_not_fit_each_other(table, change, change_test, more, says):
    frame = change(passengers()) if change else passengers()
    test = change_test(passengers(20)) if change_test else None
    with pytest.raises(MisconfigurationException, match=says):
        table(frame, test, **more)


@pytest.mark.parametrize("form", [{"sep": ";"}, {"sep": "\t"}, {"lineterminator": "\r\n"}])
def test_other_forms_of_csv(table, load, tmp_path, form):
    plain = table(passengers())
    passengers().to_csv(tmp_path / "rows.csv", index=False, **form)
    plain_inputs = plain.train.tensors[0]
    plain.setup("fit")
    assert torch.equal(plain.train.tensors[0], plain_inputs)


def folds_of(modules) -> list[int]:
    """Checks that no fold trains on its validation rows, and returns the validation rows of all folds."""
    seen = []
    for module in modules:
        module.setup("fit")
        parts = [ids(part) for part in (module.train, module.val, module.test)]
        assert sum(map(len, parts)) == len({*parts[0], *parts[1], *parts[2]})
        seen += parts[1]
    return sorted(seen)


def ids(part) -> list:
    return list(part.ids) if hasattr(part, "ids") else list(part.indices)


def test_each_row_is_validated_in_one_fold(load, tmp_path):
    """And test rows in none: the test set is the same with and without folds."""
    for task, name in (
        ("tabular", TABLE),
        ("image-classification", IMAGES),
        ("text-classification", "TextDataModule"),
    ):
        (data,) = load(task, "data")
        kind = getattr(data, name)
        whole = kind()
        whole.setup("fit")
        assert folds_of(kind(fold=n, folds=4) for n in range(4)) == sorted(
            [*ids(whole.train), *ids(whole.val)]
        )


def test_folds_have_alike_many_of_each_class(load):
    """A class with fewer rows than folds is missing in some."""
    (fold,) = load("tabular", "fold")
    labels = [0] * 50 + [1] * 23 + [2] * 3
    rows = torch.randperm(76, generator=torch.Generator().manual_seed(0)).tolist()
    counts = []
    for number in range(5):
        train, val = fold.one_fold(rows[:60], rows[60:], labels, number, 5)
        assert sorted([*train, *val]) == list(range(76))
        counts.append([sum(labels[row] == kind for row in val) for kind in range(3)])
    for kind, most in ((0, 10), (1, 5), (2, 1)):
        found = [count[kind] for count in counts]
        assert max(found) == most
        assert max(found) - min(found) <= 1


def test_a_table_of_predictions(load, tmp_path):
    """Ids, names and truth belong to the sample, even in a Subset of a Subset."""
    writer, _ = load("tabular", "prediction_writer", "data")
    whole = torch.utils.data.TensorDataset(torch.zeros(6, 1))
    said = {"ids": [*"abcdef"], "labels": [0, 1, 2, 0, 1, 2], "names": ["x", "y", "z"]}
    vars(whole).update(said, columns=("key", "kind"))
    part = torch.utils.data.Subset(torch.utils.data.Subset(whole, [5, 3, 1]), [2, 0])
    chances = torch.tensor([[0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
    lines = list(writer.table(part, [1, 0], chances))
    assert lines == [
        ["key", "kind", "p_x", "p_y", "p_z", "truth"],
        ["b", "y", "0.25", "0.5", "0.25", "y"],
        ["f", "z", "0.1", "0.1", "0.8", "z"],
    ]
    bare = torch.utils.data.Subset(torch.utils.data.TensorDataset(torch.zeros(6, 1)), [4, 2])
    assert list(writer.table(bare, [0, 1], torch.tensor([1.5, 2.0]))) == [
        ["row", "prediction"],
        [4, "1.5"],
        [2, "2"],
    ]
    assert list(writer.table(bare, [0], torch.ones(1, 2))) == [
        ["row", "prediction_1", "prediction_2"],
        [4, "1", "1"],
    ]


def test_a_regression_is_predicted_in_the_units_of_the_table(load, tmp_path):
    """And a checkpoint restores the model, though its sizes came from the table."""
    data, model = load("tabular", "data", "model")
    frame = passengers().assign(Price=lambda t: 5e5 + 100 * t["Age"].fillna(40))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    module = data.TabularDataModule(str(tmp_path / "rows.csv"), "Price", id="Id", batch_size=64)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    made = model.TabularModel()
    trainer.fit(made, module)
    predicted = torch.cat(trainer.predict(made, datamodule=module))
    assert 4e5 < predicted.mean() < 6e5
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    again = model.TabularModel.load_from_checkpoint(tmp_path / "kept.ckpt").eval()
    mean, spread = module.units
    with torch.no_grad():
        torch.testing.assert_close(again(module.test.tensors[0]) * spread + mean, predicted)


def test_more_classes_than_the_model_has_are_one_clear_error(load, tmp_path):
    """Before training, not at the first such label; fewer classes than the model has are fine."""
    place = tmp_path / "photos"
    place.mkdir()
    write_folder(place)
    data, model, confusion = load("image-classification", "data", "model", "confusion")
    counts = confusion.ConfusionMatrix()
    photos = data.ImageDataModule("folder", str(place), batch_size=4)
    with pytest.raises(MisconfigurationException, match=r"2 classes.* set model\.classes to 2"):
        fit(model.ImageClassifier(classes=1, channels=3), photos, counts)
    fit(model.ImageClassifier(classes=3, channels=3), photos, counts)
    with pytest.raises(
        MisconfigurationException, match=r"have 3 channels.* set model\.channels to 3"
    ):
        fit(model.ImageClassifier(classes=3, channels=1), photos, counts)

    data, model = load("text-classification", "data", "model")
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"line {n},{n % 9}\n" for n in range(60)))
    with pytest.raises(MisconfigurationException, match=r"9 classes.* set model\.classes to 9"):
        fit(model.TextClassifier(), data.TextDataModule(str(file)))

    data, model = load("finetune", "data", "model")
    digits = data.DigitsDataModule(pretrained=str(tmp_path / "backbone.pt"))
    with pytest.raises(MisconfigurationException, match=r"5 classes.* set model\.classes to 5"):
        fit(model.FineTuned(classes=4), digits)


@pytest.mark.parametrize(
    ("task", "kind"), [("diffusion", "Diffusion"), ("generative-adversarial", "GAN")]
)
def test_samples_that_are_not_like_the_images(load, tmp_path, task, kind):
    place = tmp_path / "photos"
    place.mkdir()
    write_folder(place)
    data, model, score = load(task, "data", "model", "score")
    photos = data.ImageDataModule("folder", str(place), batch_size=4)
    with pytest.raises(
        MisconfigurationException, match=r"set model\.channels to 3 and model\.size"
    ):
        fit(getattr(model, kind)(size=8), photos, score.SampleScore(4))


@pytest.mark.parametrize(
    ("classify", "sizes", "says"),
    [
        (True, (2, 2), r"3 classes, .* set model\.classes to 3"),
        (False, (2, 3), r"0 classes, .* set model\.classes to 0"),
        (False, (9, 0), r"2 features, .* set model\.features to 2"),
    ],
)
def test_a_model_of_another_size_than_the_table(load, tmp_path, classify, sizes, says):
    data, model = load("tabular", "data", "model")
    file = tmp_path / "rows.csv"
    file.write_text("a,b,goal\n" + "".join(f"{n},{n},{n % 3}\n" for n in range(40)))
    module = data.TabularDataModule(str(file), target="goal", classify=classify)
    with pytest.raises(MisconfigurationException, match=says):
        fit(model.TabularModel(*sizes), module)


def test_a_model_that_looks_at_other_lengths_than_the_data(load):
    data, model = load("time-series", "data", "model")
    with pytest.raises(
        MisconfigurationException, match=r"\(24, 12\), those of the model \(36, 12\)"
    ):
        fit(model.Forecaster(), data.SeriesDataModule(history=24))
    data, model = load("language-model", "data", "model")
    with pytest.raises(MisconfigurationException, match=r"set model\.context to 64"):
        fit(model.LanguageModel(context=32, width=8, depth=1), data.TextDataModule(context=64))


def test_masks_in_folders(load, tmp_path):
    data, model = load("image-segmentation", "data", "model")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (30, 20), number * 20).save(tmp_path / name / f"{number}.png")
    (tmp_path / "images" / ".DS_Store").touch()  # what a file manager leaves is no image
    fit(model.Segmenter(width=4), data.MaskDataModule(str(tmp_path), size=18, batch_size=4))


def test_boxes_in_cocos_form(load, tmp_path):
    """Boxes are scaled with the images, classes are numbered in the order of their ids."""
    data, model = load("object-detection", "data", "model")
    coco(tmp_path)
    module = data.SceneDataModule(str(tmp_path), size=40, batch_size=4)
    fit(model.Detector(classes=2, width=4), module)
    assert module.names == ("cat", "dog")

    module.train.indices = list(range(12))
    (_, empty), (image, things) = module.train[0], module.train[1]
    assert image.shape == (3, 40, 40)
    assert empty.tolist() == [[-1.0] * 5]
    assert things[0].tolist() == pytest.approx([0, 4, 8, 20, 28])


def test_more_classes_than_the_detector_has(load, tmp_path):
    data, model = load("object-detection", "data", "model")
    coco(tmp_path)
    with pytest.raises(MisconfigurationException, match=r"set model\.classes to 2"):
        fit(model.Detector(classes=1), data.SceneDataModule(str(tmp_path)))


def test_series_in_a_file(load, tmp_path):
    data, model = load("time-series", "data", "model")
    file = tmp_path / "series.csv"
    file.write_text("day,value\n" + "".join(f"{day},{day % 7}\n" for day in range(300)))
    module = data.SeriesDataModule(str(file), history=14, horizon=7, batch_size=8)
    fit(model.Forecaster(history=14, horizon=7), module)


def test_texts_in_a_file(load, tmp_path):
    data, model = load("text-classification", "data", "model")
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"line {n},{'ab'[n % 2]}\n" for n in range(60)))
    fit(model.TextClassifier(classes=2), data.TextDataModule(str(file), batch_size=8))


def test_a_folder_of_text(load, tmp_path):
    data, model = load("language-model", "data", "model")
    text = tmp_path / "text"
    (text / "inside").mkdir(parents=True)
    (text / "inside" / "a.txt").write_text("all the same " * 500)
    module = data.TextDataModule(str(text), str(tmp_path / "cache"), context=16, batch_size=4)
    fit(model.LanguageModel(context=16, width=16, depth=1, heads=2), module)
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def a_model(folder: Path, template: str | None = None) -> str:
    """A byte-level GPT-2 of transformers, with bfloat16 weights."""
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).bfloat16().save_pretrained(folder)
    tokenizer = ByT5Tokenizer(extra_ids=0, model_max_length=64, chat_template=template)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_and_conversations_of_ones_own(load, tmp_path, rank):
    """Conversations are truncated to the context length, and the export has the dtype of the base model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data, model, export = load("llm-finetuning", "data", "model", "export")
    name, file = a_model(tmp_path / "gpt"), tmp_path / "chats.jsonl"
    rows = [{"instruction": f"Add {n} and 1", "input": "", "output": f"{n + 1}"} for n in range(8)]
    rows += [{"prompt": f"{n}?", "response": "No." * n} for n in range(1, 30)]
    said = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And now?")]
    rows += [{"messages": [{"role": role, "content": text} for role, text in said]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    module = data.ChatDataModule(str(file), batch_size=8)
    made = model.Assistant(name, rank)
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    trainer.fit(made, module)
    assert max(len(tokens) for tokens, _ in module.train.items) == 64
    kept = [part for item in module.train.items for part in item]
    assert not any(map(torch.is_tensor, kept))  # which workers that are not forked cannot take
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    export.export(str(tmp_path / "one.ckpt"), tmp_path / "result")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "result")
    assert network.dtype == torch.bfloat16
    assert "### assistant" in AutoTokenizer.from_pretrained(tmp_path / "result").chat_template


THINKS = (  # as templates of models that think do: only the last answer keeps its thoughts
    "{% for m in messages %}<{{ m.role }}>{{ '#' if loop.last and m.role == 'assistant' }}"
    "{{ m.content }}{% endfor %}{{ '<assistant>' if add_generation_prompt }}"
)


def test_a_template_that_writes_earlier_answers_otherwise(load, tmp_path):
    """They are not answers then, only the last one is, from where it differs from the generation prompt."""
    tokens, chats, network = load("llm-finetuning", "tokens", "chats", "network")
    tokenizer = network.load_tokenizer(a_model(tmp_path / "gpt", THINKS))
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    chat = chats.Chat([{"role": role, "content": text} for role, text in said], "here")
    assert tokens.pieces(chat, tokenizer) == [
        ("<user>a<assistant>b<user>c<assistant>", False),
        ("#d", True),
    ]
    tokenizer.chat_template = THINKS.replace("'<assistant>' if", "'<assistant>?' if")
    assert tokens.pieces(chat, tokenizer)[-1] == ("#d", True)
    tokenizer.chat_template = "{{ raise_exception('no system, please') }}"
    with pytest.raises(MisconfigurationException, match=r"here: .* no system, please"):
        tokens.pieces(chat, tokenizer)


@pytest.mark.parametrize(
    ("name", "says"), [("no/where", r"not available from the .* hub"), (".", "a folder that")]
)
def test_a_model_that_is_not_there(load, monkeypatch, name, says):
    data, model = load("llm-finetuning", "data", "model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MisconfigurationException, match=says):
        fit(model.Assistant(name), data.ChatDataModule())


def test_an_environment_of_gymnasium(load):
    pytest.importorskip("gymnasium")
    data, model = load("reinforcement-learning", "data", "model")
    fit(model.PolicyGradient(), data.CartPoleDataModule("CartPole-v1"))


def test_adapters_and_an_installed_backbone(load, monkeypatch):
    """A torchvision model is found by name, and adapted."""
    (backbones,) = load("finetune", "backbones")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(7))
    network.fc = torch.nn.Linear(7, 3)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as where it is not installed
    with pytest.raises(MissingExtra, match="pip install torchvision"):
        backbones.make_backbone("torchvision/resnet18")
    fake = ModuleType("torchvision.models")
    fake.get_model = lambda name, weights: (
        network if (name, weights) == ("resnet18", "DEFAULT") else None
    )
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    made, features = backbones.make_backbone("torchvision/resnet18")
    assert features == 7
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 7)
