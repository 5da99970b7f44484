"""Two fast checks: the pieces fit together, and the shapes are right."""

import torch
from scaffold_runtime import Trainer

from blank_example.data import DataModule
from blank_example.model import Model


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(Model(), DataModule())
    assert trainer.global_step == 1


def test_one_output() -> None:
    assert Model()(torch.zeros(4, 8)).shape == (4, 1)
