"""Fast checks: the pieces fit together, and the shapes are right."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from object_detection_example.boxes import find, heat_of, overlap
from object_detection_example.data import SceneDataModule
from object_detection_example.model import Detector
from object_detection_example.precision import count_hits, mean_average_precision

OBJECTS = torch.tensor(
    [[[2.0, 8, 4, 24, 36], [0, 40, 40, 60, 56], [-1, -1, -1, -1, -1]]]
)


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(Detector(), SceneDataModule())
    assert trainer.global_step == 1


def test_maps_are_a_quarter_of_the_size() -> None:
    heat, distances = Detector()(torch.zeros(2, 3, 64, 48))
    assert heat.shape == (2, 10, 16, 12)
    assert distances.shape == (2, 4, 16, 12)


def test_overlap() -> None:
    box = torch.tensor([0.0, 0, 10, 10])
    assert overlap(box, box).item() == 1
    assert overlap(box, box + 5).item() == pytest.approx(25 / 175)
    assert overlap(box, box + 20).item() == 0


def test_objects_are_found_where_their_maps_say() -> None:
    heat = heat_of(OBJECTS, classes=3, side=16)
    distances = torch.zeros(1, 4, 16, 16)
    distances[0, :, 5, 4] = torch.tensor([2.5, 4.5, 1.5, 3.5])  # cell (4, 5): 18, 22
    distances[0, :, 12, 12] = torch.tensor([2.5, 2.5, 2.5, 1.5])
    found = find(heat.logit(eps=1e-4), distances, most=2)[0]
    assert found[found[:, 0].argsort(descending=True), :5].equal(OBJECTS[0, :2])


def test_mean_average_precision() -> None:
    right, other = torch.tensor([8.0, 4, 24, 36]), torch.tensor([0.0, 50, 9, 60])
    objects = torch.tensor([[[0.0, *right], [0.0, 40, 40, 60, 56]]])

    def score(*boxes: tuple) -> float:
        found = torch.tensor([[[0.0, *box, sure] for *box, sure in boxes]])
        return mean_average_precision(count_hits(found, objects, 3)).item()

    second = objects[0, 1, 1:]
    assert score((*right, 0.9), (*second, 0.7)) == pytest.approx(1)
    assert score((*right, 0.9), (*other, 0.8)) == pytest.approx(1 / 2)
    assert score((*right, 0.9), (*right, 0.8), (*second, 0.7)) == pytest.approx(5 / 6)


def test_the_same_seed_draws_the_same() -> None:
    first, again = SceneDataModule(), SceneDataModule()
    first.setup("fit")
    again.setup("fit")
    assert torch.equal(first.train[7][0], again.train[7][0])
    assert not torch.equal(first.train[7][0], first.val[7][0])


def test_missing_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        MisconfigurationException, match="there is no .*annotations.json"
    ):
        SceneDataModule(str(tmp_path)).prepare_data()
    (tmp_path / "images").mkdir()
    images = [{"id": number, "file_name": f"{number}.png"} for number in (7, 8)]
    table = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "annotations.json").write_text(json.dumps(table), encoding="utf-8")
    Image.new("L", (9, 9)).save(tmp_path / "images" / "7.png")
    with pytest.raises(MisconfigurationException, match="there is no .*8.png, which"):
        SceneDataModule(str(tmp_path)).prepare_data()
