"""RichModelSummary: the summary as a table drawn by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaffold_runtime.callbacks.model_summary import NUMERIC, ModelSummary, Summary

if TYPE_CHECKING:
    from scaffold_runtime.trainer import Trainer


class RichModelSummary(ModelSummary):
    """Print the layers of the model before training, as a rich table.

    Args:
        max_depth: how deep to go into nested layers; -1 for all, 0 for no summary.
        table: passed to `rich.table.Table`: `header_style`, `box`, ...
    """

    def __init__(self, max_depth: int = 1, **table: Any) -> None:
        super().__init__(max_depth)
        self._table = table

    def show(self, trainer: Trainer, summary: Summary) -> None:
        from rich.console import Console
        from rich.table import Table

        header, *rows = summary.table()
        table = Table(**{"header_style": "bold magenta", **self._table})
        for name, right in zip(header, NUMERIC, strict=False):  # fewer if sizes are not measured
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console = Console()
        console.print(table)
        for line in summary.totals():
            console.print(line, highlight=False)
