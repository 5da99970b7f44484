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

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of actions (N, actions), and values (N,): the expected return."""
        observations = observations.to(self.device)
        return self.policy(observations), self.value(observations)[:, 0]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        observations, actions, old_log_probs, advantages, returns = batch
        logits, values = self(observations)
        log_probs = logits.log_softmax(dim=1)
        ratio = (log_probs.gather(1, actions[:, None])[:, 0] - old_log_probs).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        clipped = ratio.clamp(1 - self.hparams.clip, 1 + self.hparams.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = mse_loss(values, returns)
        entropy = -(log_probs.exp() * log_probs).sum(dim=1).mean()
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
