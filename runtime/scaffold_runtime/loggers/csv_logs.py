"""CSVLogger: metrics.csv, one row per step, and hparams.yaml."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from scaffold_runtime.loggers.logger import FolderLogger

FIRST = ("epoch", "step")


class CSVLogger(FolderLogger):
    """Write `metrics.csv` into the run folder.

    Rows are appended. The file is rewritten when a name appears that has no column yet, and when a run is
    resumed: rows that it will log again are moved to `metrics.replaced.csv`.

    Args:
        save_dir: the folder under which experiments are kept.
        name: the experiment; "" puts runs directly into `save_dir`.
        version: the run; the next free number if not given.
        prefix: put before every name.
        flush_logs_every_n_steps: rows buffered before they are written.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._flush_every = flush_logs_every_n_steps
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._written = 0

    @property
    def experiment(self) -> CSVLogger:
        """This logger, which writes by itself."""
        return self

    @property
    def file(self) -> Path:
        """The path of `metrics.csv`."""
        return Path(self.log_dir) / "metrics.csv"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": len(self._rows) if step is None else step}
        for name, value in metrics.items():
            number = value.item() if isinstance(value, Tensor) else value
            row[name if name in FIRST else self._prefix + name] = number
        self._rows.append(row)
        if len(self._rows) >= self._flush_every:
            self.save()

    def save(self) -> None:
        if not self._rows:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self._columns:
            self._columns, rows = self._read()
            self._written = len(rows)
        seen = dict.fromkeys(name for row in self._rows for name in row)
        new = [name for name in (*FIRST, *seen) if name in seen and name not in self._columns]
        if new:
            self._columns += dict.fromkeys(new)
            self._replace(self._read()[1])
        with self.file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, restval="").writerows(self._rows)
        self._written += len(self._rows)
        self._rows.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._columns, rows = self._read()
        self._written = min(state.get("rows", 0), len(rows))
        again = rows[self._written :]
        if again:
            replaced = self.file.with_suffix(".replaced.csv")
            with replaced.open("a", newline="", encoding="utf-8") as file:
                _write(file, self._columns, again)
            self._replace(rows[: self._written])

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """The columns and rows of the file. First removes an incomplete last line, which a killed run may leave."""
        if not self.file.exists():
            return [], []
        os.truncate(self.file, self.file.read_bytes().rfind(b"\n") + 1)
        with self.file.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            return list(reader.fieldnames or ()), list(reader)

    def finalize(self, status: str) -> None:
        self.save()
        super().finalize(status)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        """Rewrite the file; the old one stays until the new one is complete."""
        temporary = self.file.with_suffix(".csv.partial")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            _write(file, self._columns, rows)
        os.replace(temporary, self.file)


def _write(file: Any, columns: list[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
