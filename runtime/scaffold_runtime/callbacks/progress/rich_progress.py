"""RichProgressBar: progress drawn by rich."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaffold_runtime.callbacks.progress.progress_bar import ProgressBar, number

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from scaffold_runtime import Trainer


@dataclass
class RichProgressBarTheme:
    """Styles of the parts of a `RichProgressBar`, in rich's syntax."""

    description: str = ""
    progress_bar: str = "#6206E0"
    progress_bar_finished: str = "#6206E0"
    progress_bar_pulse: str = "#6206E0"
    batch_progress: str = ""
    time: str = "dim"
    processing_speed: str = "dim underline"
    metrics: str = "italic"
    metrics_text_delimiter: str = " "
    metrics_format: str = ".3f"


class RichProgressBar(ProgressBar):
    """Show progress with rich on a terminal; elsewhere, plain lines as a `ProgressBar` writes.

    Args:
        refresh_rate: check every N batches whether to redraw; 0 switches the bar off.
        leave: keep the bar of each finished epoch on the screen.
        theme: styles of its parts.
        console_kwargs: passed to `rich.console.Console`.
    """

    def __init__(
        self,
        refresh_rate: int = 1,
        leave: bool = False,
        theme: RichProgressBarTheme | None = None,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.progress: Progress | None = None
        super().__init__(refresh_rate)
        self.leave, self.theme = leave, theme or RichProgressBarTheme()
        self._console_kwargs = console_kwargs or {}
        self._task: Any = None

    def _can_redraw(self) -> bool:
        # While a bar is open, rich before 15 replaces stdout by an object whose `isatty` is False. Not in a notebook,
        # where rich needs widgets.
        return self.progress is not None or sys.stdout.isatty()

    def _open(self) -> Progress:
        """Start rich's display, at the first redraw."""
        from rich.console import Console
        from rich.progress import Progress

        columns, console = self.configure_columns(self.trainer), Console(**self._console_kwargs)
        progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
        progress.start()
        return progress

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """The parts of the bar, as rich columns; override it to show others."""
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        theme = self.theme
        styles = (theme.progress_bar, theme.progress_bar_finished, theme.progress_bar_pulse)
        return [
            TextColumn("{task.description}", style=theme.description),
            BarColumn(complete_style=styles[0], finished_style=styles[1], pulse_style=styles[2]),
            TextColumn("{task.fields[counts]}", style=theme.batch_progress),
            TimeElapsedColumn(),
            TextColumn("{task.fields[rate]}", style=theme.processing_speed),
            TextColumn("{task.fields[metrics]}", style=theme.metrics),
        ]

    def _show(self, metrics: dict[str, Any]) -> None:
        if self.progress is None:
            self.progress = self._open()
            self._task = self.progress.add_task("", counts="", rate="", metrics="")
        self.progress.update(
            self._task,
            description=self._label,
            total=self._known_total(),
            completed=self._done,
            counts=self._counts(),
            rate=f"{self._rate():.4g} it/s",
            metrics=self._metrics(metrics),
            refresh=True,
        )

    def _metrics(self, metrics: dict[str, Any]) -> str:
        form = self.theme.metrics_format
        shown = {
            k: f"{v:{form}}" if isinstance(v, float) else number(v) for k, v in metrics.items()
        }
        return self.theme.metrics_text_delimiter.join(f"{k}: {v}" for k, v in shown.items())

    def _hide(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
