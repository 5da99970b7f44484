"""BatchSizeFinder: the largest batch that fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scaffold_runtime.accelerators import free_memory, is_out_of_memory
from scaffold_runtime.callbacks.tuned_attribute import TunedAttribute
from scaffold_runtime.checkpoint.snapshot import Snapshot
from scaffold_runtime.errors import MisconfigurationException, check_choice, warn
from scaffold_runtime.feed import STAGES
from scaffold_runtime.hooks import Callback
from scaffold_runtime.loaders import as_eval_loaders, parts_of

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer


class BatchSizeFinder(Callback):
    """Search for the largest batch size that does not run out of memory, and train with it. Weights, random
    state and data are restored after the search; a resumed run uses the size found before.

    The module or data module must build its loaders with the attribute `batch_arg_name`.

    Args:
        mode: "power" doubles the size until it fails; "binsearch" then searches between the last two.
        steps_per_trial: steps tried with each size.
        init_val: the first size.
        max_trials: how many sizes are tried.
        batch_arg_name: the attribute that holds the batch size.
        margin: in "binsearch", the fraction by which the result is lowered, to be safe.
        max_val: the largest size tried.

    Raises:
        MisconfigurationException: if there is no such attribute, or loaders were passed by hand.
    """

    def __init__(
        self,
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> None:
        check_choice(self, "mode", mode, "power", "binsearch")
        if not 0 <= margin < 1:
            raise MisconfigurationException(
                f"BatchSizeFinder(margin={margin}): give a share from 0.0 to below 1.0."
            )
        self._mode, self._steps_per_trial = mode, steps_per_trial
        self._init_val, self._max_trials, self._max_val = init_val, max_trials, max_val
        self._batch_arg_name, self._margin = batch_arg_name, margin
        self.optimal_batch_size: int | None = None
        self._restored = False

    def state_dict(self) -> dict[str, Any]:
        return {} if self.optimal_batch_size is None else {"batch_size": self.optimal_batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimal_batch_size, self._restored = state_dict["batch_size"], True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restored, self._restored = self._restored, False
        if restored:
            self._attribute(trainer).set(self.optimal_batch_size)
        else:
            self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fn == "validate":
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    on_predict_start = on_test_start

    def scale_batch_size(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search now."""
        if trainer.fast_dev_run:
            warn("no batch size is searched in fast_dev_run.")
            return
        if trainer.world_size > 1:
            raise MisconfigurationException(
                "the batch size finder works in one process: where memory runs out in one of several, the others "
                "wait for its gradients. Search with devices=1, and give the size that was found."
            )
        attribute, run = self._attribute(trainer), trainer._live()
        stage = STAGES[run.fn]
        if run.feed.given.get(stage) is not None:
            raise MisconfigurationException(
                f"the batch size finder cannot change loaders passed to {run.fn}(): "
                "define them in the module or in a data module."
            )
        snapshot, before = Snapshot(run), attribute.get()

        def fits(size: int) -> bool:
            attribute.set(size)
            try:
                trainer.rehearse([], self._steps_per_trial)
                return True
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            finally:
                snapshot.put_back()
            free_memory()
            return False

        found: int | None = None
        try:
            samples = _samples(run.feed.source(stage))
            found = self._search(fits, min(self._max_val, samples or self._max_val))
        finally:
            attribute.set(before if found is None else found)
        self.optimal_batch_size = found
        run.feed.renew(stage)
        trainer.print(f"Batch size set to {found}")

    def _attribute(self, trainer: Trainer) -> TunedAttribute:
        names = (self._batch_arg_name,)
        return TunedAttribute(trainer, names, "the batch size finder", "batch_arg_name")

    def _search(self, fits: Callable[[int], bool], most: int) -> int:
        """The largest size that fits: double (or halve) until one does and one does not, then look between."""
        good, bad, size = 0, 0, min(self._init_val, most)
        for _ in range(self._max_trials):
            if fits(size):
                good = size
            else:
                bad = size
            closed = bool(good and bad)
            if bad == 1:
                raise MisconfigurationException("not even a batch of 1 fits into memory.")
            if (closed and (self._mode == "power" or bad - good <= 1)) or good == most:
                break
            if closed:
                size = (good + bad) // 2
            else:
                size = min(size * 2, most) if good else size // 2
        if not good:
            raise MisconfigurationException(
                f"no batch size down to {bad} fits into memory: lower `init_val` or raise `max_trials`."
            )
        safe = good if self._mode == "power" or not bad else int(good * (1 - self._margin))
        return max(1, safe)


def _samples(source: Any) -> int | None:
    """How many samples the largest data set has; None if the loaders do not tell."""
    parts = [part for loader in as_eval_loaders(source) for part in parts_of(loader)]
    try:
        return max(len(part.dataset) for part in parts)
    except (AttributeError, TypeError, NotImplementedError):
        return None
