"""Vectorized environments, each reset when its episode ends."""

import warnings
from typing import Any, Protocol

import torch
from scaffold_runtime.errors import MissingExtra
from torch import Tensor


class Environments(Protocol):
    count: int

    def reset(self) -> Tensor:
        """Observations (N, sees)."""
        ...

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Next observations (N, sees), rewards, terminated, truncated."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state of all episodes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class CartPole:
    """The cart and pole of Barto, Sutton and Anderson: 0 pushes left, 1 right."""

    def __init__(self, count: int, seed: int, longest: int = 500) -> None:
        self.count, self.seed, self.longest = count, seed, longest
        self.generator = torch.Generator()

    def start(self) -> Tensor:
        return torch.rand(self.count, 4, generator=self.generator) * 0.1 - 0.05

    def reset(self) -> Tensor:
        self.generator.manual_seed(self.seed)
        self.state, self.age = self.start(), torch.zeros(self.count)
        return self.state

    def state_dict(self) -> dict[str, Any]:
        drawn = self.generator.get_state()
        return {"state": self.state, "age": self.age.clone(), "drawn": drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state, self.age = state["state"], state["age"]
        self.generator.set_state(state["drawn"])

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        place, speed, angle, turning = self.state.unbind(1)
        gravity, cart, pole, half, tau = 9.8, 1.0, 0.1, 0.5, 0.02
        mass = cart + pole
        push = 20.0 * actions - 10.0
        sin, cos = angle.sin(), angle.cos()
        pushed = (push + pole * half * turning**2 * sin) / mass
        falling = (gravity * sin - cos * pushed) / (
            half * (4 / 3 - pole * cos**2 / mass)
        )
        rolling = pushed - pole * half * falling * cos / mass
        moved = (place + tau * speed, speed + tau * rolling)
        turned = (angle + tau * turning, turning + tau * falling)
        self.state, self.age = torch.stack([*moved, *turned], dim=1), self.age + 1
        failed = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.2095)
        late = (self.age >= self.longest) & ~failed
        self.state = torch.where((failed | late)[:, None], self.start(), self.state)
        self.age[failed | late] = 0
        return self.state, torch.ones(self.count), failed, late


class Gymnasium:
    """Environments of gymnasium, if it is installed."""

    def __init__(self, name: str, count: int, seed: int) -> None:
        try:
            import gymnasium
        except ImportError:
            raise MissingExtra(
                f"to play {name!r}, pip install gymnasium; or take cartpole."
            ) from None
        mode: Any = gymnasium.vector.AutoresetMode.SAME_STEP
        self.made = gymnasium.make_vec(
            name, count, "sync", vector_kwargs={"autoreset_mode": mode}
        )
        self.count, self.seed = count, seed

    def reset(self) -> Tensor:
        seen, _ = self.made.reset(seed=self.seed)
        return torch.as_tensor(seen, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        return {}  # gymnasium cannot save the state of an episode

    def load_state_dict(self, state: dict[str, Any]) -> None:
        warnings.warn(
            "gymnasium cannot go on with a play: all begin anew.", stacklevel=2
        )
        self.reset()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen, reward, failed, late, _ = self.made.step(actions.numpy())
        numbers = (
            torch.as_tensor(each, dtype=torch.float32) for each in (seen, reward)
        )
        return *numbers, torch.as_tensor(failed), torch.as_tensor(late)  # type: ignore[return-value]


def make_environments(name: str, count: int, seed: int) -> Environments:
    return CartPole(count, seed) if name == "cartpole" else Gymnasium(name, count, seed)
