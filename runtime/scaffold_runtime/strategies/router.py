"""A module whose `forward` runs any step, so that wrappers such as DDP see every step as a `forward`."""

from __future__ import annotations

from typing import Any

from torch import nn

from scaffold_runtime.errors import StepError


class StepRouter(nn.Module):
    """`router("training_step", batch, 0)` is `module.training_step(batch, 0)`.

    Raises:
        StepError: if a training step returns None, which would leave the other processes waiting.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.running = False

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.running = True
        try:
            output = getattr(self.module, name)(*args, **kwargs)
        finally:
            self.running = False
        if output is None and name == "training_step":
            raise StepError(
                "`training_step` returned None. A batch cannot be skipped in one process while others "
                "wait for its gradients: return a loss of zero, for instance `0 * loss`."
            )
        return output
