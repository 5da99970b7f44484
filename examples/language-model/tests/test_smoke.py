"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from language_model_example.data import TextDataModule
from language_model_example.model import LanguageModel


def small() -> LanguageModel:
    return LanguageModel(context=32, width=16, depth=1, heads=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = tmp_path / "text"
    text.mkdir()
    (text / "one.txt").write_bytes(b"to be or not to be\n" * 400)
    (text / "two.txt").write_bytes(b"that is the question\n" * 400)
    return tmp_path


def test_one_batch_of_everything(folder: Path) -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    data = TextDataModule(str(folder / "text"), str(folder / "cache"), context=32)
    trainer.fit(small(), data)
    assert trainer.global_step == 1


def test_targets_are_one_byte_later(folder: Path) -> None:
    data = TextDataModule(str(folder / "text"), str(folder / "cache"), context=32)
    data.prepare_data()
    data.setup("fit")
    inputs, targets = data.train[3]
    assert torch.equal(inputs[1:], targets[:-1])


def test_attention_is_causal() -> None:
    model = small()
    tokens = torch.randint(256, (1, 32))
    changed = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % 256], dim=1)
    torch.testing.assert_close(model(tokens)[:, :-1], model(changed)[:, :-1])


def test_generates_bytes() -> None:
    model = small()
    assert model.generate(torch.zeros(2, 1, dtype=torch.long), 40).shape == (2, 41)


def test_a_missing_folder_is_one_clear_error() -> None:
    with pytest.raises(MisconfigurationException, match="nowhere"):
        TextDataModule("nowhere").prepare_data()
