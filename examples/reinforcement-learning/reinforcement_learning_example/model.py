import torch
from scaffold_runtime import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from reinforcement_learning_example.environments import Environments
from reinforcement_learning_example.play import mean_return


class PolicyGradient(LightningModule):
    """Proximal policy optimization (PPO)."""

    def __init__(
        self,
        sees: int = 4,
        actions: int = 2,
        width: int = 64,
        clip: float = 0.2,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.policy, self.value = (
            nn.Sequential(
                nn.Linear(sees, width),
                nn.Tanh(),
                nn.Linear(width, width),
                nn.Tanh(),
                nn.Linear(width, out),
            )
            for out in (actions, 1)
        )

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of actions (N, actions), and values (N,): the expected return."""
        seen = seen.to(self.device)
        return self.policy(seen), self.value(seen)[:, 0]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        seen, actions, before, gains, returns = batch
        scores, values = self(seen)
        chances = scores.log_softmax(dim=1)
        ratio = (chances.gather(1, actions[:, None])[:, 0] - before).exp()
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        near = ratio.clamp(1 - self.hparams.clip, 1 + self.hparams.clip)
        policy_loss = -torch.minimum(ratio * gains, near * gains).mean()
        value_loss = mse_loss(values, returns)
        entropy = -(chances.exp() * chances).sum(dim=1).mean()
        self.log_dict({"value_loss": value_loss, "entropy": entropy}, prog_bar=True)
        return policy_loss + 0.5 * value_loss - 0.01 * entropy

    def validation_step(self, batch: Environments, batch_idx: int) -> None:
        self.log("val_return", mean_return(self, batch), prog_bar=True, batch_size=1)

    def test_step(self, batch: Environments, batch_idx: int) -> None:
        self.log("test_return", mean_return(self, batch), batch_size=1)

    def predict_step(self, batch: Environments, batch_idx: int) -> Tensor:
        return mean_return(self, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
