"""ProgressBar: one line per epoch, redrawn on a terminal and in a notebook; in a file, also a line each minute."""

from __future__ import annotations

import builtins
import math
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from scaffold_runtime.columns import aligned
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback, overridden

if TYPE_CHECKING:
    from scaffold_runtime import LightningModule, Trainer

REDRAW_SECONDS = 0.1
REDRAW_SECONDS_OF_NOTEBOOKS = 0.5  # each redraw is a message to the browser
LINE_SECONDS = 60  # if nothing can be redrawn
FULL, EMPTY = "━", "─"
OF_TRAINING = ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end")
PLACE = ("_stage", "_label", "_total", "_done", "_began_at", "_began", "_next_draw")


def get_standard_metrics(trainer: Trainer) -> dict[str, Any]:
    """Metrics that every bar shows in addition to logged ones: none."""
    return {}


class ProgressBar(Callback):
    """Show how far a run is, how fast it goes, and the metrics logged with `prog_bar=True`.

    On a terminal the line of an epoch is redrawn at most ten times a second, in a notebook twice; in a pipe or a
    file a line is written per epoch, and each minute within it. Subclasses change the drawing by overriding `_show`
    and `_hide`, and the labels by overriding the descriptions. If a subclass overrides a training hook, it draws by
    itself, and this class draws nothing.

    Args:
        refresh_rate: check every N batches whether to redraw; 0 switches the bar off.
    """

    sanity_check_description: str = "Sanity check"
    validation_description: str = "Validation"
    test_description: str = "Testing"
    predict_description: str = "Predicting"

    leave: bool = True  # on a terminal, keep the line of each finished epoch, not only of the last

    def __init__(self, refresh_rate: int = 1) -> None:
        self._refresh_rate = refresh_rate
        self._enabled = True
        self._trainer: Trainer | None = None
        self._written = 0  # characters of the line on the screen
        self._last_line = ""
        self._line_open = False
        self._outer: dict[str, Any] | None = None  # the state of training's bar during validation
        self._begin("", "", math.inf)

    @property
    def trainer(self) -> Trainer:
        """The trainer whose run is shown.

        Raises:
            MisconfigurationException: if there was no run yet.
        """
        if self._trainer is None:
            raise MisconfigurationException(
                f"{type(self).__name__} has no trainer before a run begins."
            )
        return self._trainer

    @property
    def train_description(self) -> str:
        """The label of a training epoch: "Epoch 1/3"."""
        last = "" if self.trainer.max_epochs == -1 else f"/{self.trainer.max_epochs}"
        return f"Epoch {self.trainer.current_epoch + 1}{last}"

    @property
    def total_train_batches(self) -> int | float:
        """Number of batches in an epoch; infinity if unknown."""
        return self.trainer.num_training_batches

    @property
    def total_val_batches(self) -> int | float:
        """Number of batches of a validation, over all loaders."""
        return sum(self.trainer.num_val_batches)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is shown beside the bar; override it to show something else."""
        return dict(trainer.progress_bar_metrics)

    def enable(self) -> None:
        """Show the bar; it is shown unless it was disabled."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing until it is enabled again."""
        self._hide()
        self._enabled = False

    @property
    def refresh_rate(self) -> int:
        """Every how many batches to check whether a redraw is due."""
        return self._refresh_rate

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown."""
        return self._enabled and self.refresh_rate > 0

    @property
    def is_disabled(self) -> bool:
        """Whether nothing is shown."""
        return not self.is_enabled

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self._hide()
        builtins.print(*args, **kwargs)

    # -- training ---------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_training(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.progress.batch:  # resumed within an epoch, whose start hook does not run again
            self._begin_training(trainer)

    def _begin_training(self, trainer: Trainer) -> None:
        self._begin("train", self.train_description, self.total_train_batches)
        self._done = self._began_at = trainer.progress.batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._done = batch_idx + 1
        if self._draws_now():
            self._draw(self.get_metrics(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._draws:
            self._finish_line(self.get_metrics(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._last_line:
            builtins.print(self._last_line, flush=True)
            self._last_line = ""

    # -- evaluation -------------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("sanity", self.sanity_check_description, sum(trainer.num_sanity_val_batches))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fn == "fit" and not trainer.sanity_checking:
            self._outer = {name: getattr(self, name) for name in PLACE}
        if not trainer.sanity_checking:
            self._begin("validation", self.validation_description, self.total_val_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._outer is not None:
            vars(self).update(self._outer)
            self._outer = None
        else:
            self._hide()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test", self.test_description, sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("predict", self.predict_description, sum(trainer.num_predict_batches))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._done += 1
        if self._draws_now():
            self._draw({})

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hide()

    on_sanity_check_end = on_test_end = on_predict_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._line_open:
            builtins.print()
            self._line_open = False
        self._hide()

    # -- drawing ----------------------------------------------------------------------------------

    def _begin(self, stage: str, label: str, total: float) -> None:
        self._live = self._can_redraw()  # otherwise lines are added
        pause = REDRAW_SECONDS_OF_NOTEBOOKS if _in_notebook() else REDRAW_SECONDS
        self._every = pause if self._live else LINE_SECONDS
        self._stage, self._label, self._total = stage, label, total
        self._done = self._began_at = 0
        self._began = time.monotonic()
        self._next_draw = self._began + self._every

    def _can_redraw(self) -> bool:
        return sys.stdout.isatty() or _in_notebook()

    @property
    def _draws(self) -> bool:
        """Whether this class draws: not if a subclass draws in its hooks, as on Lightning's bare base class."""
        draws_itself = any(overridden(hook, self, ProgressBar) for hook in OF_TRAINING)
        return self.is_enabled and not (draws_itself and type(self)._show is ProgressBar._show)

    def _draws_now(self) -> bool:
        if not self.is_enabled or self._done % self.refresh_rate:
            return False
        return time.monotonic() >= self._next_draw and self._draws

    def _draw(self, metrics: dict[str, Any]) -> None:
        self._next_draw = time.monotonic() + self._every
        if self._live:
            self._show(metrics)
        else:
            builtins.print(self._line(metrics), flush=True)

    def _show(self, metrics: dict[str, Any]) -> None:
        """Draw the bar, in place of the one drawn before."""
        width = shutil.get_terminal_size().columns - 1
        self._replace_line(self._line(metrics)[:width])
        sys.stdout.flush()
        self._line_open = True

    def _hide(self) -> None:
        """Remove the bar from the screen."""
        if self._line_open:
            self._replace_line("")
            self._line_open = False

    def _replace_line(self, text: str) -> None:
        """A terminal can erase the line; in a notebook it is overwritten with blanks."""
        erased = f"\r{' ' * self._written}\r" if _in_notebook() else "\r\x1b[2K"
        sys.stdout.write(f"{erased}{text}")
        self._written = len(text)

    def _finish_line(self, metrics: dict[str, Any]) -> None:
        self._hide()
        if self.leave or not self._live:
            builtins.print(self._line(metrics), flush=True)
        else:
            self._last_line = self._line(metrics)

    def _elapsed(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)

    def _rate(self) -> float:
        return (self._done - self._began_at) / self._elapsed()

    def _known_total(self) -> int | None:
        """Number of batches; None if unknown."""
        return None if self._total == math.inf else int(self._total)

    def _counts(self) -> str:
        total = self._known_total()
        return f"{self._done}" if total is None else f"{self._done}/{total}"

    def _line(self, metrics: dict[str, Any]) -> str:
        shown = "  ".join(f"{name}={number(value)}" for name, value in metrics.items())
        bar = f"{self._drawing()} " if self._live else ""
        speed = f"{_clock(self._elapsed())}  {self._rate():.4g} it/s"
        return f"{self._label}  {bar}{self._counts()}  {speed}  {shown}".rstrip()

    def _drawing(self, width: int = 20) -> str:
        share = 0.0 if self._total in (0, math.inf) else min(self._done / self._total, 1.0)
        filled = round(width * share)
        return FULL * filled + EMPTY * (width - filled)


def _in_notebook() -> bool:
    """Whether output goes to a notebook, through IPython's kernel."""
    return type(sys.stdout).__module__.startswith("ipykernel")


def results_table(results: list[dict[str, float]], stage: str) -> str:
    """The metrics of an evaluation, one line each; lines equal for several loaders appear once."""
    shown = [(name, number(value)) for result in results for name, value in result.items()]
    lines = [f"  {line}" for line in aligned(list(dict.fromkeys(shown)))]
    return "\n".join([f"{stage.capitalize()} results", *lines])


def number(value: Any) -> str:
    """A value as it is shown, with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
