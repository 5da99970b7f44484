"""SilentLogger: stands in for a logger when nothing is logged, as on ranks other than 0."""

from __future__ import annotations

from typing import Any

from scaffold_runtime.loggers.logger import Logger, Nothing

PLACES = ("name", "version", "save_dir", "log_dir", "root_dir")


class SilentLogger(Logger):
    """Has the folders and version of another logger, and writes nothing.

    Args:
        places: `name`, `version`, `save_dir`, `log_dir` and `root_dir` of the other logger, if there is one.
    """

    name: Any = None
    version: Any = None
    save_dir: Any = None
    log_dir: Any = None
    root_dir: Any = None
    experiment: Any = Nothing()

    def __init__(self, places: dict[str, Any] | None = None) -> None:
        vars(self).update(places or {})

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the other logger; calling it does nothing."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Nothing()

    @classmethod
    def places_of(cls, logger: Logger) -> dict[str, Any]:
        return {name: getattr(logger, name) for name in PLACES}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        return None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        return None
