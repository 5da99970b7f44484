"""BasePredictionWriter: hand predictions to your own writing code, with the indices of their samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from scaffold_runtime.batches import replacing
from scaffold_runtime.data import in_main_memory
from scaffold_runtime.errors import MisconfigurationException, check_choice
from scaffold_runtime.hooks import Callback, overridden
from scaffold_runtime.sharding import numbered

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class WriteInterval(str, Enum):
    """When predictions are written."""

    BATCH = "batch"
    EPOCH = "epoch"
    BATCH_AND_EPOCH = "batch_and_epoch"

    @property
    def on_batch(self) -> bool:
        """Whether predictions are written after each batch."""
        return self in (self.BATCH, self.BATCH_AND_EPOCH)

    @property
    def on_epoch(self) -> bool:
        """Whether predictions are written at the end of the epoch."""
        return self in (self.EPOCH, self.BATCH_AND_EPOCH)


class BasePredictionWriter(Callback):
    """Write predictions: override `write_on_batch_end`, `write_on_epoch_end`, or both.

    Use it with `trainer.predict(..., return_predictions=False)` if predictions do not fit in memory.

    Args:
        write_interval: "batch", "epoch" or "batch_and_epoch": which of the two is called.

    Raises:
        MisconfigurationException: for another interval; in `predict`, if no method that writes is overridden.
    """

    def __init__(self, write_interval: str = "batch") -> None:
        check_choice(self, "write_interval", write_interval, "batch", "epoch", "batch_and_epoch")
        self.interval = WriteInterval(write_interval)
        self._recorders: list[_Recorder] = []
        self._predictions: list[list[Any]] = []
        self._indices: list[list[Any]] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch. `batch_indices` are the indices of its samples in the data set; empty if unknown."""

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write all batches, in host memory: a list of them, or one such list per loader if there are several.
        `batch_indices` is always a list per loader."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        asked = {"batch": self.interval.on_batch, "epoch": self.interval.on_epoch}
        methods = [f"write_on_{when}_end" for when in asked if asked[when]]
        if not any(overridden(method, self, BasePredictionWriter) for method in methods):
            raise MisconfigurationException(
                f"{type(self).__name__}(write_interval={self.interval.value!r}) writes nothing without a "
                f"`{methods[0]}`: write one, or choose another interval."
            )
        feed = trainer._live().feed
        self._recorders = recorders = [_Recorder(each) for each in feed.eval_loaders("predict")]
        feed.replace("predict", [recorder.loader for recorder in recorders])
        self._predictions, self._indices = [[] for _ in recorders], [[] for _ in recorders]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        indices = self._recorders[dataloader_idx].next()
        if self.interval.on_epoch:
            self._predictions[dataloader_idx].append(in_main_memory(outputs, trainer.device))
            self._indices[dataloader_idx].append(indices)
        if self.interval.on_batch:
            self.write_on_batch_end(
                trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx
            )

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interval.on_epoch:
            one = len(self._predictions) == 1
            predictions = self._predictions[0] if one else self._predictions
            self.write_on_epoch_end(trainer, pl_module, predictions, self._indices)
        self._predictions, self._indices = [], []


class _Recorder:
    """A batch sampler that records its indices, since workers draw ahead of the batches they deliver. For a loader
    without batches of indices it records nothing."""

    def __init__(self, loader: Any) -> None:
        self.sampler: Any = getattr(loader, "batch_sampler", None)
        self.drawn: deque[list[int]] = deque()
        known = numbered(loader) and self.sampler is not None
        self.loader = replacing(loader, batch_sampler=self) if known else loader

    def next(self) -> list[int]:
        """The indices of the batch that was delivered."""
        return self.drawn.popleft() if self.drawn else []

    def __iter__(self) -> Iterator[list[int]]:
        self.drawn.clear()
        for indices in self.sampler:
            self.drawn.append(list(indices))
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)
