"""What loops need from a strategy: a record of callables, and a few collectives."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from scaffold_runtime.accelerators import Accelerator
from scaffold_runtime.empty import materialize
from scaffold_runtime.errors import CheckpointError, Moved, MovedAway, RankFailed
from scaffold_runtime.precision import Precision, in_precision
from scaffold_runtime.strategies.environments import ClusterEnvironment

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model made ready: all that loops call. They know nothing else of strategy or precision."""

    call: Callable[[str], Callable[..., Any]]
    """`call("training_step")` is that step, run in its precision and through whatever wraps the module."""
    backward: Callable[[Tensor, Callable[[Tensor], None]], None]
    unscale: Callable[[Optimizer], None]
    step: Callable[..., Any]
    clip: Callable[[list[nn.Parameter], float, str], None]
    set_syncing: Callable[[bool], Any]
    """Whether gradients sync between processes, from the next forward on; they do where nobody says otherwise."""
    average: Callable[[], None] | None = None
    """Average gradients over processes that did not sync while backward ran; None: they always do."""


class Strategy(abc.ABC):
    """Where a run happens. Abstract; each subclass is final.

    Everything but `prepare` has a meaning for one process; strategies of several override it.
    """

    root_device: torch.device
    world_size: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    environment: ClusterEnvironment | None = None  # who started the processes, where somebody says
    sharded: bool = False  # whether each process writes its own part of a checkpoint
    owns_state: bool = False  # whether weights and optimizer states are for its engine to save
    divides: bool = False  # whether each process has only its part of weights and gradients
    divider: str | None = (
        None  # of weights, which a module then keeps in parts, and each forward gathers from all
    )
    infers: bool = True  # whether evaluation may run in torch's inference mode
    timeout: timedelta

    model = Moved("`trainer.model`")
    lightning_module = Moved("`trainer.lightning_module`")
    optimizers = MovedAway("`trainer.optimizers`, which may be set")
    lr_scheduler_configs = Moved("`trainer.lr_scheduler_configs`")
    precision_plugin = Moved("`trainer.precision_plugin`")
    accelerator = Moved("`trainer.accelerator`")
    batch_to_device = Moved("`module.transfer_batch_to_device(batch, device, dataloader_idx)`")
    save_checkpoint = Moved("`trainer.save_checkpoint(path)`")
    connect = Moved(
        "`trainer.validate(module, loader)` or `fit`, after which `save_checkpoint` saves"
    )

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the first of all processes."""
        return self.global_rank == 0

    # -- from settings to a process that takes part -------------------------------------------------

    @abc.abstractmethod
    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        """Take the trainer's devices, and find out which of the processes this one is."""

    def launch(self, call: Callable[[], Any], obeys: bool) -> Callable[[], Any] | None:
        """Start what processes are missing. What is returned stands for the call, run elsewhere; None: go on
        here, in a process that takes part. A call that `obeys` leaves at a signal by itself, when it is saved.
        """
        return None

    def open(self) -> None:
        """A run begins."""

    def fail(self, error: BaseException) -> BaseException:
        """This process failed: tell the others. Returns the reason, which may lie elsewhere.

        Nothing waits for other processes from here on: collectives give what this process has.
        """
        return error

    def close(self) -> None:
        """A run has ended."""

    def release(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        """The last thing in a run: leave the device's memory to others."""

    # -- the model ----------------------------------------------------------------------------------

    def sync_batchnorm(self, module: nn.Module) -> None:
        """Share the statistics of batches between processes; there is nothing to share with one."""

    def loads(self, module: nn.Module) -> bool:
        """Whether this process loads weights itself, and does not get them from the first when they are placed."""
        return True

    def filling(self, module: nn.Module) -> AbstractContextManager[Any]:
        """The scope in which `module.load_state_dict` gets whole weights; all processes enter it."""
        return nullcontext()

    def place(self, module: nn.Module, precision: Precision) -> None:
        """Bring `module` to where it is trained, before its optimizers are made."""
        materialize(module, self.root_device)
        module.to(self.root_device)

    @abc.abstractmethod
    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        """Wrap `module`, which was placed, for training."""

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Inside a fit: ask the module for its optimizers and schedulers anew, as when layers were unfrozen."""
        trainer.make_optimizers()

    def evaluating(
        self, module: nn.Module, of_each: list[list[float]]
    ) -> AbstractContextManager[Any]:
        """The scope of an evaluation, over so many batches of each process's loaders; all processes enter it."""
        return nullcontext()

    def whole(self, state: Any) -> Any:
        """A state to be saved, in which every tensor is whole in the first process; all must call this."""
        return state

    def piece(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]] | None:
        """What this process has of a tensor, and where in it that begins; None if it has all of it."""
        return None

    def scatter(self, whole: dict[str, Any], like: Any) -> None:
        """Divide tensors that were loaded whole as `like` is: a tensor, or those of the same names."""

    def save_engine(self, folder: Path) -> None:
        """Write what an engine keeps for itself into a new folder; all processes must call this."""

    def reads_engine(self, fn: str) -> bool:
        """Whether weights that an engine saved are read by `load_engine`, and not put together before."""
        return False

    def load_engine(self, folder: Path, optimizers: bool) -> None:
        """Take back what `save_engine` wrote.

        Raises:
            CheckpointError: if this strategy has no such engine, or it cannot.
        """
        raise CheckpointError(
            f"{folder.parent} was saved by DeepSpeed, and only that can load its optimizer states: resume with "
            "strategy='deepspeed'. For its weights alone, `python -m scaffold_runtime.checkpoint consolidate`."
        )

    # -- among processes ----------------------------------------------------------------------------

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: str = "mean") -> Tensor:
        """Reduce a tensor over processes: "mean" (or "avg"), "sum", "min" or "max"."""
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002
        """Whether every process, or, where not `all` must, at least one decided so."""
        own = torch.tensor(int(decision), device=self.root_device)
        return bool(self.reduce(own, reduce_op="min" if all else "max"))

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors of all processes, stacked along a new first dimension."""
        return data

    def gather(self, value: Any) -> list[Any]:
        """The plain values all processes have, by rank, on every process."""
        return [value]

    def gather_to_first(self, value: Any) -> list[Any]:
        """The values all processes have, by rank, on the first; the others get their own only."""
        values = self.gather(value)
        return values if self.is_global_zero else [value]

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value process `src` has, on every process; with several, its tensors are in main memory then."""
        return self.gather(value)[src]

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""

    def all_reach(self, place: str) -> bool:
        """Whether all processes come to this place, whose name is its own, within half the timeout: they need not."""
        return True

    def first_per_node(self, work: Callable[[], Any]) -> None:
        """Run `work` in one process of each machine, however long it takes, before any goes on."""
        work()

    def all_do(self, work: Callable[[], Any]) -> None:
        """Run `work` in every process; all go on when it is done, or fail when one failed."""
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        told = self.gather(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, text in enumerate(told):
            if text is not None:
                raise RankFailed(f"process {rank} failed: {text}")

    def first_does(self, work: Callable[[], Any]) -> None:
        """Run `work` in the first process; all go on when it is done, or fail when it failed."""
        self.all_do(work if self.is_global_zero else lambda: None)

    def agree_to_stop(self, batch: float, asked: int, due: bool = False) -> int:
        """Why all stop after this batch, as a number that one of them was asked with; 0 to go on. With `due`,
        alike on all, decide now. Batch 0 begins a new count, infinity ends one that need not be alike.
        """
        return asked

    def now(self) -> float:
        """Seconds on a clock that shows all processes the same at the same batch."""
        return time.monotonic()


def to_main_memory(module: nn.Module, optimizers: list[Optimizer]) -> None:
    """Weights, and what optimizers remember of them."""
    module.cpu()
    beside_weights(optimizers)


def beside_weights(optimizers: list[Optimizer]) -> None:
    """Bring what optimizers remember to where their weights are, an earlier run's too; but for the number of steps,
    whose place torch chooses."""
    for optimizer in optimizers:
        for parameter, kept in optimizer.state.items():
            if isinstance(parameter, Tensor) and isinstance(kept, dict):
                move = partial(Tensor.to, device=parameter.device)
                for name in kept.keys() - {"step"}:
                    kept[name] = tree_map_only(Tensor, move, kept[name])


def unwrapped(
    module: nn.Module,
    precision: Precision,
    call: Callable[[str], Callable[..., Any]] | None = None,
    **others: Any,
) -> Prepared:
    """A module made ready as it is; the rest replaces what a strategy does in another way."""
    call = call or partial(getattr, module)
    callables: dict[str, Any] = {
        "call": lambda name: in_precision(call(name), precision),
        "backward": precision.backward,
        "unscale": precision.unscale,
        "step": precision.step,
        "clip": clip_gradients,
        "set_syncing": lambda syncs: None,
        "average": lambda: None,
    }
    return Prepared(**{**callables, **others})


def clip_gradients(parameters: list[nn.Parameter], limit: float, algorithm: str) -> None:
    """Clip in place, by total 2-norm ("norm") or element-wise ("value")."""
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, limit)
