"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from tabular_example.data import TabularDataModule
from tabular_example.model import TabularModel


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(TabularModel(), TabularDataModule())
    assert trainer.global_step == 1


def test_one_batch_of_classes() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    data = TabularDataModule("breast_cancer", classify=True)
    trainer.fit(TabularModel(features=30, classes=2), data)
    assert trainer.global_step == 1


def test_normalised_by_what_is_trained_on_alone() -> None:
    data = TabularDataModule()
    data.setup("fit")
    inputs, goals = data.train.tensors
    assert torch.allclose(inputs.mean(0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(goals.std(), torch.tensor(1.0), atol=1e-5)
    assert data.val.tensors[0].mean(0).abs().max() > 1e-3


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("size,target\n" + "1,2\n" * 20 + "big,3\n")
    with pytest.raises(MisconfigurationException, match="holds text"):
        TabularDataModule(str(file)).prepare_data()
    with pytest.raises(MisconfigurationException, match="no column 'price'"):
        TabularDataModule(str(file), target="price").prepare_data()
