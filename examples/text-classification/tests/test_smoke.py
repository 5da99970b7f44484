"""Fast checks: the pieces fit together, and the shapes are right."""

from pathlib import Path

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MisconfigurationException

from text_classification_example.data import TextDataModule
from text_classification_example.lines import Buckets
from text_classification_example.metrics import f1_counts, macro_f1
from text_classification_example.model import TextClassifier


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(TextClassifier(), TextDataModule())
    assert trainer.global_step == 1


def test_padding_does_not_matter() -> None:
    model, text = TextClassifier().eval(), torch.randint(1, 257, (2, 30))
    padded = torch.nn.functional.pad(text, (0, 10))
    torch.testing.assert_close(model(text), model(padded))


def test_batches_hold_every_line_once_and_similar_lengths() -> None:
    lengths = torch.randint(20, 120, (1000,)).tolist()
    batches = list(Buckets(lengths, 32))
    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    spreads = [
        max(b) - min(b) for b in ([lengths[i] for i in batch] for batch in batches)
    ]
    assert max(spreads) < 30


def test_macro_f1() -> None:
    counts = f1_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), classes=2)
    assert macro_f1(counts).item() == pytest.approx(2 / 3)


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "lines.csv"
    file.write_text("text,class\none,1\n", encoding="utf-8")
    with pytest.raises(MisconfigurationException, match="columns text and label"):
        TextDataModule(str(file)).prepare_data()
    with pytest.raises(MisconfigurationException, match="there is no file"):
        TextDataModule("nowhere.csv").prepare_data()
