"""Rollouts: the policy plays, and learns from what it did."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from reinforcement_learning_example.environments import Environments


class Played(IterableDataset[list[Tensor]]):
    """Batches of observations, actions, log-probabilities, advantages and returns.

    Each round begins with a rollout by the current policy.
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
        self.seen: Tensor | None = None
        self.played: list[Tensor] = []
        self.parts: list[Tensor] = []  # batches of the rollout, still to learn from

    def __len__(self) -> int:
        played = self.steps * self.environments.count
        return self.rounds * self.passes * -(-played // self.batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for _ in range(len(self)):
            if not self.parts:
                self.played = self.play()
                size = len(self.played[0])
                orders = [torch.randperm(size) for _ in range(self.passes)]
                self.parts = [p for each in orders for p in each.split(self.batch_size)]
            part = self.parts.pop(0)
            yield [each[part] for each in self.played]

    def state_dict(self) -> dict[str, Any]:
        where = None if self.seen is None else self.environments.state_dict()
        rest = {"played": self.played, "parts": list(self.parts)}
        return {"environments": where, "seen": self.seen, **rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        self.played, self.parts = list(state["played"]), list(state["parts"])
        if self.seen is not None:
            self.environments.load_state_dict(state["environments"])

    @torch.no_grad()
    def play(self) -> list[Tensor]:
        seen = self.environments.reset() if self.seen is None else self.seen
        rows, ends = [], []
        for _ in range(self.steps):
            scores, value = (each.cpu() for each in self.policy(seen))
            chances = scores.log_softmax(dim=1)
            action = chances.exp().multinomial(1)
            rows.append([seen, action[:, 0], chances.gather(1, action)[:, 0], value])
            seen, reward, failed, late = self.environments.step(action[:, 0])
            ends.append([reward, failed, late])
        self.seen, (_, next_value) = seen, (each.cpu() for each in self.policy(seen))
        states, actions, chances, values = map(torch.stack, zip(*rows, strict=True))
        rewards, failed, late = map(torch.stack, zip(*ends, strict=True))
        gains = advantages(rewards, values, next_value, failed, late)
        whole = states, actions, chances, gains, gains + values
        return [each.flatten(0, 1) for each in whole]


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_value: Tensor,
    failed: Tensor,
    late: Tensor,
    discount: float = 0.99,
    trace: float = 0.95,
) -> Tensor:
    """Generalized advantage estimation (GAE) of actions (steps, N)."""
    gains, gain = torch.zeros_like(values), torch.zeros_like(next_value)
    for step in range(len(rewards) - 1, -1, -1):
        # truncated episodes are bootstrapped with the value
        after = torch.where(late[step], values[step], next_value * ~failed[step])
        surprise = rewards[step] + discount * after - values[step]
        gain = surprise + discount * trace * gain * ~(failed[step] | late[step])
        gains[step], next_value = gain, values[step]
    return gains


@torch.no_grad()
def mean_return(
    policy: nn.Module, environments: Environments, longest: int = 500
) -> Tensor:
    """Return of one episode per environment, with greedy actions."""
    seen = environments.reset()
    total, playing = torch.zeros(len(seen)), torch.ones(len(seen))
    for _ in range(longest):
        seen, reward, failed, late = environments.step(policy(seen)[0].argmax(1).cpu())
        total += reward * playing
        playing *= ~(failed | late)
    return total.mean()
