"""SilentLogger: what is there in place of a logger where nothing is logged, as in processes other than the first."""

from __future__ import annotations

from typing import Any

from scaffold_runtime.loggers.logger import Logger, Nothing

PLACES = ("name", "version", "save_dir", "log_dir", "root_dir")


class SilentLogger(Logger):
    """Knows the places that somebody else logs to, and writes nothing.

    Args:
        places: `name`, `version`, `save_dir`, `log_dir` and `root_dir` of the other logger, where there is one.
    """

    def __init__(self, places: dict[str, Any] | None = None) -> None:
        self._places = places or dict.fromkeys(PLACES)

    @classmethod
    def places_of(cls, logger: Logger) -> dict[str, Any]:
        return {name: getattr(logger, name) for name in PLACES}

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
