"""SilentLogger: what processes other than the first see in place of a logger."""

from __future__ import annotations

from typing import Any

from scaffold_runtime.loggers.logger import Logger, Nothing


class SilentLogger(Logger):
    """Knows the places the first process logs to, and writes nothing.

    Args:
        places: `name`, `version`, `save_dir`, `log_dir` and `root_dir` of the first process's logger.
    """

    def __init__(self, places: dict[str, Any]) -> None:
        self._places = places

    @classmethod
    def places_of(cls, logger: Logger) -> dict[str, Any]:
        names = ("name", "version", "save_dir", "log_dir", "root_dir")
        return {name: getattr(logger, name) for name in names}

    @property
    def name(self) -> str | None:
        name: str | None = self._places["name"]
        return name

    @property
    def version(self) -> int | str | None:
        version: int | str | None = self._places["version"]
        return version

    @property
    def save_dir(self) -> str | None:
        folder: str | None = self._places["save_dir"]
        return folder

    @property
    def log_dir(self) -> str | None:
        folder: str | None = self._places["log_dir"]
        return folder

    @property
    def root_dir(self) -> str | None:
        folder: str | None = self._places["root_dir"]
        return folder

    @property
    def experiment(self) -> Any:
        return Nothing()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        return None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        return None
