"""Train with `python train.py`; settings are in `configs/`, options in `--help`."""

from scaffold_runtime.cli import run

from reinforcement_learning_example.data import CartPoleDataModule
from reinforcement_learning_example.model import PolicyGradient

if __name__ == "__main__":
    run(PolicyGradient, CartPoleDataModule)
