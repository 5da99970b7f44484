"""What the engine needs from a strategy: a record of callables for the loops, and a few collectives."""

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
    """A model ready to run: all that the loops know of strategy and precision."""

    call: Callable[[str], Callable[..., Any]]
    """`call("training_step")` is that step, run in its precision and through whatever wraps the module."""
    backward: Callable[[Tensor, Callable[[Tensor], None]], None]
    unscale: Callable[[Optimizer], None]
    step: Callable[..., Any]
    clip: Callable[[list[nn.Parameter], float, str], None]
    set_syncing: Callable[[bool], Any]
    """Whether gradients sync between ranks, from the next forward on; by default they do."""
    average: Callable[[], None] | None = None
    """Average gradients over ranks that did not sync them during backward; None: they are always synced."""


class Strategy(abc.ABC):
    """The devices and processes of a run. Abstract; each subclass is final.

    All methods except `attach` and `prepare` are implemented here for one process; strategies of several override them.
    """

    root_device: torch.device
    world_size: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    environment: ClusterEnvironment | None = None  # what launched the processes, if given
    sharded: bool = False  # whether each process writes its own part of a checkpoint
    owns_state: bool = False  # whether its engine saves weights and optimizer states
    divides: bool = False  # whether each rank holds only a shard of the training state
    divider: str | None = (
        None  # what shards weights, if something does: each forward then gathers them from all ranks
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
        """Whether this is rank 0."""
        return self.global_rank == 0

    # -- the processes of a run ---------------------------------------------------------------------

    @abc.abstractmethod
    def attach(self, accelerator: Accelerator, devices: Sequence[int], num_nodes: int) -> None:
        """Take the trainer's devices, and find the rank of this process."""

    def launch(self, call: Callable[[], Any], obeys: bool) -> Callable[[], Any] | None:
        """Start missing processes. Returns None to continue in this process, which takes part; or a function that makes
        the call in child processes. A call that `obeys` signals saves and exits by itself.
        """
        return None

    def open(self) -> None:
        """A run starts."""

    def fail(self, error: BaseException) -> BaseException:
        """Tell other ranks that this one failed. Returns the reason, which may be the failure of another rank.

        From here on nothing waits for other ranks: collectives return this rank's own value.
        """
        return error

    def close(self) -> None:
        """A run has ended."""

    def release(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        """The last call of a run: free the memory of the device."""

    # -- the model ----------------------------------------------------------------------------------

    def sync_batchnorm(self, module: nn.Module) -> None:
        """Share batch statistics between ranks; with one there is nothing to do."""

    def loads(self, module: nn.Module) -> bool:
        """Whether this rank loads weights itself; if not, `place` sends it those of rank 0."""
        return True

    def filling(self, module: nn.Module) -> AbstractContextManager[Any]:
        """The context in which `module.load_state_dict` takes full weights; all ranks enter it."""
        return nullcontext()

    def place(self, module: nn.Module, precision: Precision) -> None:
        """Move `module` to its device, before its optimizers are created."""
        materialize(module, self.root_device)
        module.to(self.root_device)

    @abc.abstractmethod
    def prepare(
        self, module: nn.Module, optimizers: list[Optimizer], precision: Precision
    ) -> Prepared:
        """Wrap `module`, after `place`, for training or evaluation."""

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Inside a fit: call `configure_optimizers` again, for instance when layers were unfrozen."""
        trainer.make_optimizers()

    def evaluating(
        self, module: nn.Module, of_each: list[list[float]]
    ) -> AbstractContextManager[Any]:
        """The context of an evaluation; all ranks enter it. `of_each`: batches per loader, for each rank."""
        return nullcontext()

    def whole(self, state: Any) -> Any:
        """A state to be saved, with full tensors on rank 0; all ranks must call this."""
        return state

    def piece(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]] | None:
        """This rank's shard of a tensor, and its offset; None if the tensor is not sharded."""
        return None

    def scatter(self, whole: dict[str, Any], like: Any) -> None:
        """Replace full tensors in `whole` by shards like those of `like`: a tensor, or a dict with the same names."""

    def save_engine(self, folder: Path) -> None:
        """Let an engine save its own state into a new folder; all ranks must call this."""

    def reads_engine(self, fn: str) -> bool:
        """Whether `load_engine` reads the weights that an engine saved; if not, they are assembled before."""
        return False

    def load_engine(self, folder: Path, optimizers: bool) -> None:
        """Load what `save_engine` wrote.

        Raises:
            CheckpointError: if this strategy has no engine, or its engine cannot load it.
        """
        raise CheckpointError(
            f"{folder.parent} was saved by DeepSpeed, and only that can load its optimizer states: resume with "
            "strategy='deepspeed'. For its weights alone, `python -m scaffold_runtime.checkpoint consolidate`."
        )

    # -- collectives --------------------------------------------------------------------------------

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: str = "mean") -> Tensor:
        """Reduce a tensor over processes: "mean" (or "avg"), "sum", "min" or "max"."""
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002
        """Whether all ranks, or with `all=False` at least one, decided so."""
        own = torch.tensor(int(decision), device=self.root_device)
        return bool(self.reduce(own, reduce_op="min" if all else "max"))

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Tensors of all ranks, stacked along a new first dimension; with one process, unchanged."""
        return data

    def gather(self, value: Any) -> list[Any]:
        """The plain values of all ranks, in their order, on every rank."""
        return [value]

    def gather_to_first(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on rank 0; the others get only their own."""
        values = self.gather(value)
        return values if self.is_global_zero else [value]

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value of rank `src`, on every rank; with several ranks, its tensors are moved to the CPU."""
        return self.gather(value)[src]

    def barrier(self, name: str | None = None) -> None:
        """Wait until all ranks are here."""

    def all_reach(self, place: str) -> bool:
        """Whether all ranks reach this place (a unique name) within half the timeout; some may never do so."""
        return True

    def first_per_node(self, work: Callable[[], Any]) -> None:
        """Run `work` in one process of each node, however long it takes, before others on the node continue."""
        work()

    def all_do(self, work: Callable[[], Any]) -> None:
        """Run `work` on every rank; all continue when it is done, or raise an error if one failed."""
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
        """Run `work` on rank 0; all ranks continue when it is done, or raise an error if it failed."""
        self.all_do(work if self.is_global_zero else lambda: None)

    def agree_to_stop(self, batch: float, asked: int, due: bool = False) -> int:
        """Why all ranks stop after this batch: the largest number that one `asked` with; 0 to continue. With `due`,
        equal on all ranks, decide now. Batch 0 starts a new count; infinity ends one that may differ between ranks.
        """
        return asked

    def now(self) -> float:
        """Seconds on a clock that is equal on all ranks at the same batch."""
        return time.monotonic()


def to_main_memory(module: nn.Module, optimizers: list[Optimizer]) -> None:
    """Move weights and optimizer states to host memory."""
    module.cpu()
    beside_weights(optimizers)


def beside_weights(optimizers: list[Optimizer]) -> None:
    """Move optimizer states, which may be from an earlier run, to the device of their weights; except step counts,
    whose device torch chooses."""
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
    """The module without a wrapper; `others` replace what a strategy does differently."""
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
