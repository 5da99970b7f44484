"""WeightAveraging and EMAWeightAveraging: train the weights, but evaluate and keep their average."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scaffold_runtime.checkpoint.snapshot import snapshot
from scaffold_runtime.checkpoint.state import load_weights
from scaffold_runtime.checkpoint.transient import fill_buffers, restore_transient, transient
from scaffold_runtime.checks import check_whole
from scaffold_runtime.hooks import Callback

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

KEPT = ("state_dict", "current_model_state", "averaging_state", "averaging_transient")
PREFIX = "module."  # of the model's names inside an AveragedModel


class WeightAveraging(Callback):
    """Keep an average of the weights. The average is validated, saved as the checkpoint's `state_dict`, and what
    the module holds after training; the weights being trained are saved beside it, so that a resumed run
    continues exactly.

    Override `should_update` to choose when the average is updated; by default, after
    every optimizer step.

    Args:
        device: where the average is kept; the trainer's device if None.
        use_buffers: average buffers (such as running statistics) too, instead of copying them.
        kwargs: passed to torch's `AveragedModel`: `avg_fn` or `multi_avg_fn`.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        self._device = torch.device(device) if device is not None else None
        self._use_buffers, self._kwargs = use_buffers, kwargs
        self._average_model: AveragedModel | None = None
        self._count = 0  # updates of the average
        self._swapped = False
        self._updated_step, self._updated_epoch = 0, -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update now. Called after each optimizer step with its index (from 0), and at the end
        of each training epoch with the epoch's."""
        return step_idx is not None

    # -- averaging --------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_whole(self, trainer)
        if stage == "fit":
            self._average_model, self._swapped = None, False
            self._updated_step, self._updated_epoch = 0, -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._get_average(trainer, pl_module)

    def _get_average(self, trainer: Trainer, pl_module: LightningModule) -> AveragedModel:
        """The average, created when first needed, since `configure_model` may create layers."""
        if self._average_model is None:
            self._count = 0
            self._average_model = AveragedModel(
                pl_module,
                device=self._device or trainer.strategy.root_device,
                use_buffers=self._use_buffers,
                **self._kwargs,
            )
            parts = zip(self._average_model.module.modules(), pl_module.modules(), strict=True)
            self._with_buffers = [(a, part) for a, part in parts if part._buffers]
        return self._average_model

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step > self._updated_step and self.should_update(step_idx=step - 1):
            self._update(trainer, pl_module)
            self._updated_step = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if epoch > self._updated_epoch and self.should_update(epoch_idx=epoch):
            self._update(trainer, pl_module)
            self._updated_epoch = epoch

    def _copy_new_buffers(self) -> None:
        """Copy buffers that training has filled or replaced by others of another shape."""
        for average, current in self._with_buffers:
            for name, buffer in current._buffers.items():
                kept = average._buffers.get(name)
                if buffer is not None and (kept is None or kept.shape != buffer.shape):
                    average._buffers[name] = buffer.clone()

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average = self._get_average(trainer, pl_module)
        self._copy_new_buffers()
        counter = average.n_averaged
        average._buffers["n_averaged"] = _Counter(counter, self._count)  # type: ignore[assignment]
        try:
            average.update_parameters(pl_module)
        finally:
            average._buffers["n_averaged"] = counter
        self._count += 1

    # -- using the average ------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fn == "fit":
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            current.copy_(average)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer._live().ended:  # resumed with nothing left to train
            self.on_train_end(trainer, pl_module)

    def _swap(self, pl_module: LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            kept = current.clone()
            current.copy_(average)
            average.copy_(kept)
        self._swapped = not self._swapped

    def _pairs(self, pl_module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        assert self._average_model is not None
        average_module = self._average_model.module
        self._copy_new_buffers()
        averages = chain(average_module.parameters(), average_module.buffers())
        currents = chain(pl_module.parameters(), pl_module.buffers())
        for average, current in zip(averages, currents, strict=True):
            yield average.detach(), current.detach()

    # -- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "latest_update_step": self._updated_step,
            "latest_update_epoch": self._updated_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updated_step = state_dict["latest_update_step"]
        self._updated_epoch = state_dict.get("latest_update_epoch", -1)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is None or trainer.fn not in ("fit", None):
            return
        if not self._swapped:
            self._add_to(checkpoint, trainer.world_size > 1)
            return
        self._swap(pl_module)  # during validation, which continues with the average
        self._add_to(checkpoint, trainer.world_size > 1)
        checkpoint.update({key: snapshot(checkpoint[key]) for key in KEPT if key in checkpoint})
        self._swap(pl_module)

    def _add_to(self, checkpoint: dict[str, Any], several: bool) -> None:
        average = self._average_model
        assert average is not None
        if "optimizer_states" in checkpoint:  # a checkpoint to resume from, not weights only
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["averaging_state"] = {"n_averaged": average.n_averaged}
            checkpoint["averaging_transient"] = transient(average, several)
        checkpoint["state_dict"] = average.module.state_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.fn != "fit" or "current_model_state" not in checkpoint:
            return
        weights = {f"{PREFIX}{name}": value for name, value in checkpoint["state_dict"].items()}
        average = self._get_average(trainer, pl_module)
        fill_buffers(average, weights)
        average.load_state_dict(weights | checkpoint["averaging_state"])
        self._count = int(checkpoint["averaging_state"]["n_averaged"])
        restore_transient(average, checkpoint.get("averaging_transient"))
        load_weights(pl_module, {"state_dict": checkpoint["current_model_state"]})


class EMAWeightAveraging(WeightAveraging):
    """Keep an exponential moving average of the weights; see `WeightAveraging` for how it is used.

    Args:
        device: where the average is kept; the trainer's device if None.
        use_buffers: average buffers too, instead of copying them.
        decay: the weight of the old average in an update.
        update_every_n_steps: update after every N optimizer steps; 0 for never.
        update_starting_at_step: the first step (from 0) after which to update.
        update_starting_at_epoch: update at the end of epochs from this one on.
        kwargs: passed to torch's `AveragedModel`.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        _ema(decay)  # refuses a decay outside of 0 to 1
        super().__init__(device, use_buffers, multi_avg_fn=partial(_update_ema, decay), **kwargs)
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is not None:
            begun = step_idx >= (self.update_starting_at_step or 0)
            every = self.update_every_n_steps
            return begun and every > 0 and step_idx % every == 0
        first = self.update_starting_at_epoch
        return epoch_idx is not None and first is not None and epoch_idx >= first


_ema = cache(get_ema_multi_avg_fn)


def _update_ema(decay: float, *lists: Any) -> None:
    """torch's EMA function, as a module-level function, which can be pickled for new processes."""
    _ema(decay)(*lists)


class _Counter:
    """The counter of an AveragedModel during an update, which compares it twice: a tensor would sync the device."""

    def __init__(self, counter: Tensor, count: int) -> None:
        self._counter, self._count = counter, count

    def __eq__(self, other: object) -> bool:
        return self._count == other

    def __gt__(self, other: int) -> bool:
        return self._count > other

    def to(self, device: Any) -> Tensor:
        return self._counter.to(device)

    def __iadd__(self, more: int) -> Tensor:
        return self._counter.add_(more)
