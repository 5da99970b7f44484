"""Vectorized environments; each one is reset when its episode ends."""

import warnings
from typing import Any, Protocol

import torch
from scaffold_runtime.errors import MissingExtra
from torch import Tensor


class Environments(Protocol):
    """N environments that run in parallel."""

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
    """CartPole (Barto, Sutton and Anderson, 1983): action 0 pushes left, 1 right."""

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
        x, x_dot, angle, angle_dot = self.state.unbind(1)
        gravity, cart, pole, half_length, tau = 9.8, 1.0, 0.1, 0.5, 0.02
        mass = cart + pole
        force = 20.0 * actions - 10.0
        sin, cos = angle.sin(), angle.cos()
        pushed = (force + pole * half_length * angle_dot**2 * sin) / mass
        inertia = half_length * (4 / 3 - pole * cos**2 / mass)
        angle_acc = (gravity * sin - cos * pushed) / inertia
        x_acc = pushed - pole * half_length * angle_acc * cos / mass
        cart_state = (x + tau * x_dot, x_dot + tau * x_acc)
        pole_state = (angle + tau * angle_dot, angle_dot + tau * angle_acc)
        self.state = torch.stack([*cart_state, *pole_state], dim=1)
        self.age = self.age + 1
        terminated = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.2095)
        truncated = (self.age >= self.longest) & ~terminated
        ended = terminated | truncated
        self.state = torch.where(ended[:, None], self.start(), self.state)
        self.age[ended] = 0
        return self.state, torch.ones(self.count), terminated, truncated


class Gymnasium:
    """Environments of the gymnasium library."""

    def __init__(self, name: str, count: int, seed: int) -> None:
        try:
            import gymnasium
        except ImportError:
            raise MissingExtra(
                f"for {name!r}, pip install gymnasium; or choose cartpole."
            ) from None
        mode: Any = gymnasium.vector.AutoresetMode.SAME_STEP
        self.vector = gymnasium.make_vec(
            name, count, "sync", vector_kwargs={"autoreset_mode": mode}
        )
        self.count, self.seed = count, seed

    def reset(self) -> Tensor:
        observations, _ = self.vector.reset(seed=self.seed)
        return torch.as_tensor(observations, dtype=torch.float32)

    def state_dict(self) -> dict[str, Any]:
        return {}  # gymnasium cannot save the state of an episode

    def load_state_dict(self, state: dict[str, Any]) -> None:
        warnings.warn(
            "gymnasium cannot restore episodes: new ones start.", stacklevel=2
        )
        self.reset()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen, rewards, terminated, truncated, _ = self.vector.step(actions.numpy())
        return (
            torch.as_tensor(seen, dtype=torch.float32),
            torch.as_tensor(rewards, dtype=torch.float32),
            torch.as_tensor(terminated),
            torch.as_tensor(truncated),
        )


def make_environments(name: str, count: int, seed: int) -> Environments:
    return CartPole(count, seed) if name == "cartpole" else Gymnasium(name, count, seed)
