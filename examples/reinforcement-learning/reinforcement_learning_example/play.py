"""Rollouts: the policy acts in environments, and learns from the results."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from reinforcement_learning_example.environments import Environments


class Rollouts(IterableDataset[list[Tensor]]):
    """Batches of observations, actions, log-probabilities, advantages and returns.

    Each round starts with a rollout of the current policy, and passes over it `passes`
    times.
    """

    def __init__(
        self,
        policy: nn.Module,
        environments: Environments,
        steps: int,
        passes: int,
        rounds: int,
        batch_size: int,
    ) -> None:
        self.policy, self.environments, self.steps = policy, environments, steps
        self.passes, self.rounds, self.batch_size = passes, rounds, batch_size
        self.observations: Tensor | None = None  # None before the first rollout
        self.rollout: list[Tensor] = []
        self.batches: list[Tensor] = []  # row numbers, of batches yet to come

    def __len__(self) -> int:
        rows = self.steps * self.environments.count
        return self.rounds * self.passes * -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for _ in range(len(self)):
            if not self.batches:
                self.rollout = self.play()
                for _ in range(self.passes):
                    order = torch.randperm(len(self.rollout[0]))
                    self.batches += order.split(self.batch_size)
            rows = self.batches.pop(0)
            yield [each[rows] for each in self.rollout]

    def state_dict(self) -> dict[str, Any]:
        """All that makes resuming exact, in the middle of a rollout too."""
        started = self.observations is not None
        return {
            "environments": self.environments.state_dict() if started else None,
            "seen": self.observations,
            "played": self.rollout,
            "parts": list(self.batches),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observations = state["seen"]
        self.rollout, self.batches = list(state["played"]), list(state["parts"])
        if self.observations is not None:
            self.environments.load_state_dict(state["environments"])

    @torch.no_grad()
    def play(self) -> list[Tensor]:
        """Tensors (steps * N, ...) of a rollout, which continues the last one."""
        seen = self.observations
        seen = self.environments.reset() if seen is None else seen
        before, after = [], []
        for _ in range(self.steps):
            logits, value = (each.cpu() for each in self.policy(seen))
            log_probs = logits.log_softmax(dim=1)
            action = log_probs.exp().multinomial(1)
            log_prob = log_probs.gather(1, action)[:, 0]
            before.append([seen, action[:, 0], log_prob, value])
            seen, reward, terminated, truncated = self.environments.step(action[:, 0])
            after.append([reward, terminated, truncated])
        self.observations = seen
        next_value = self.policy(seen)[1].cpu()
        *acted, values = map(torch.stack, zip(*before, strict=True))
        rewards, terminated, truncated = map(torch.stack, zip(*after, strict=True))
        gains = advantages(rewards, values, next_value, terminated, truncated)
        return [each.flatten(0, 1) for each in (*acted, gains, gains + values)]


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float = 0.99,
    trace: float = 0.95,
) -> Tensor:
    """Generalized advantage estimation (GAE) of actions (steps, N)."""
    result, advantage = torch.zeros_like(values), torch.zeros_like(next_value)
    for step in range(len(rewards) - 1, -1, -1):
        next_value = next_value * ~terminated[step]
        # the observation that ended a truncated episode is gone: take the value before
        next_value = torch.where(truncated[step], values[step], next_value)
        td_error = rewards[step] + discount * next_value - values[step]
        same_episode = ~(terminated[step] | truncated[step])
        advantage = td_error + discount * trace * advantage * same_episode
        result[step], next_value = advantage, values[step]
    return result


@torch.no_grad()
def mean_return(
    policy: nn.Module, environments: Environments, longest: int = 500
) -> Tensor:
    """Mean return of one episode per environment, with greedy actions."""
    seen = environments.reset()
    total, active = torch.zeros(len(seen)), torch.ones(len(seen))
    for _ in range(longest):
        action = policy(seen)[0].argmax(1).cpu()
        seen, reward, terminated, truncated = environments.step(action)
        total += reward * active
        active *= ~(terminated | truncated)
    return total.mean()
