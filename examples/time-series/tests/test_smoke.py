"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from time_series_example.baseline import seasonal
from time_series_example.data import SeriesDataModule
from time_series_example.model import Forecaster


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(Forecaster(), SeriesDataModule())
    assert trainer.global_step == 1


def test_splits_have_no_common_targets(tmp_path: Path) -> None:
    file = tmp_path / "series.csv"
    text = "value\n" + "".join(f"{number}\n" for number in range(300))
    file.write_text(text, encoding="utf-8")
    data = SeriesDataModule(str(file), history=5, horizon=3)
    data.setup("fit")
    parts = (data.train, data.val, data.test)
    targets = [set(part.tensors[1].flatten().tolist()) for part in parts]
    assert max(targets[0]) < min(targets[1]) and max(targets[1]) < min(targets[2])


def test_a_level_does_not_matter() -> None:
    model, known = Forecaster(), torch.rand(2, 36)
    torch.testing.assert_close(
        model(known + 100), model(known) + 100, atol=1e-3, rtol=0
    )


def test_the_baseline_repeats_the_last_season() -> None:
    known = torch.tensor([[1.0, 2.0, 3.0]])
    assert seasonal(known, horizon=3, season=2).tolist() == [[2, 3, 2]]


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "series.csv"
    file.write_text("value\n1\n\nx\n", encoding="utf-8")
    with pytest.raises(MisconfigurationException, match="gaps or text"):
        SeriesDataModule(str(file)).prepare_data()
    with pytest.raises(MisconfigurationException, match="no column"):
        SeriesDataModule(str(file), column="price").prepare_data()
    with pytest.raises(MisconfigurationException, match="there is no file"):
        SeriesDataModule("nowhere.csv").prepare_data()
