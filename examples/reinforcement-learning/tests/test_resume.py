"""A run that is interrupted and resumed ends as if it had never stopped."""

from pathlib import Path

from scaffold_runtime.testing import check_resume

from reinforcement_learning_example.data import CartPoleDataModule
from reinforcement_learning_example.model import PolicyGradient


def test_an_interrupted_run_resumes_exactly(tmp_path: Path) -> None:
    """The rollout and the state of the environments are restored with the policy."""
    check_resume(
        lambda: (
            PolicyGradient(width=8),
            CartPoleDataModule(steps=16, passes=2, batch_size=64, rounds=2),
        ),
        tmp_path,
        max_epochs=2,
        limit_val_batches=1,
        accelerator="cpu",
    )
