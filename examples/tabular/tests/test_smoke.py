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
    model = TabularModel()
    trainer.fit(model, data)
    assert model.hparams["features"] == 30
    assert model.hparams["classes"] == 2


def test_only_training_rows_set_the_scale() -> None:
    data = TabularDataModule()
    data.setup("fit")
    inputs, targets = data.train.tensors
    assert torch.allclose(inputs.mean(0), torch.zeros(10), atol=1e-5)
    assert torch.allclose(targets.std(), torch.tensor(1.0), atol=1e-5)
    assert data.val.tensors[0].mean(0).abs().max() > 1e-3


def test_each_row_is_validated_in_one_fold_that_does_not_train_on_it() -> None:
    seen: list[int] = []
    for fold in range(3):
        data = TabularDataModule(fold=fold, folds=3)
        data.setup("fit")
        assert not {*data.train.ids} & {*data.val.ids}
        assert not {*data.test.ids} & {*data.train.ids, *data.val.ids}
        seen += data.val.ids
    assert sorted([*seen, *data.test.ids]) == list(range(442))


def test_text_gaps_and_ids(tmp_path: Path) -> None:
    file, other = tmp_path / "rows.csv", tmp_path / "more.csv"
    lines = [f"{n:03d},{'' if n % 3 else n},{'ab'[n % 2]},{n % 2}\n" for n in range(60)]
    file.write_text("id,size,kind,target\n" + "".join(lines), encoding="utf-8")
    # an unknown value, and no target
    other.write_text("kind,id,size\nc,007,\n", encoding="utf-8")
    data = TabularDataModule(str(file), classify=True, id="id", test=str(other))
    data.setup("predict")
    (row,) = data.test.tensors[0]
    assert row.tolist()[1:] == [1, 0, 0]  # a gap in size, neither a nor b
    assert data.test.ids == ["007"]
    assert len(data.train) + len(data.val) == 60


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    text = "size,target\n" + "1,2\n" * 20 + "big,3\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MisconfigurationException, match="holds text among numbers"):
        TabularDataModule(str(file)).setup("fit")
    with pytest.raises(MisconfigurationException, match="no column 'price'"):
        TabularDataModule(str(file), target="price").setup("fit")
