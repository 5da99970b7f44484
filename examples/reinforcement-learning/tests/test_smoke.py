"""Fast checks: the pieces fit together, and the equations are right."""

import pytest
import torch
from scaffold_runtime import Trainer
from scaffold_runtime.errors import MissingExtra

from reinforcement_learning_example.data import CartPoleDataModule
from reinforcement_learning_example.environments import CartPole
from reinforcement_learning_example.model import PolicyGradient
from reinforcement_learning_example.play import advantages


def test_one_batch_of_everything() -> None:
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False)
    trainer.fit(PolicyGradient(), CartPoleDataModule())
    assert trainer.global_step == 1


def test_a_pole_falls_and_starts_again() -> None:
    carts = CartPole(count=2, seed=0)
    carts.reset()
    ages = []
    for _ in range(30):  # pushed to the right each time, it falls within these
        _, reward, terminated, truncated = carts.step(torch.ones(2))
        ages += carts.age[terminated].tolist()
        assert not truncated.any() and (reward == 1).all()
    assert ages and set(ages) == {0}


def test_a_push_to_the_right_turns_the_pole_to_the_left() -> None:
    carts = CartPole(count=1, seed=0)
    carts.reset()
    carts.state = torch.zeros(1, 4)
    seen, *_ = carts.step(torch.ones(1))
    expected = torch.tensor([[0.0, 0.1951, 0.0, -0.2927]])  # as gymnasium's CartPole-v1
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


def test_advantages_end_where_an_episode_ends() -> None:
    one, no = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    terminated = torch.tensor([[True], [False]])
    found = advantages(one, torch.zeros(2, 1), torch.zeros(1), terminated, no)
    assert found.flatten().tolist() == [1, 1]


def test_a_missing_library_is_one_clear_error() -> None:
    try:
        import gymnasium  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="pip install gymnasium"):
            CartPoleDataModule("CartPole-v1").prepare_data()
