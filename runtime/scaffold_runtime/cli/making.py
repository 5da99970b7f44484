"""Creating what a configuration describes: an error names the key and file that configured it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scaffold_runtime.cli.sources import ConfigError, Sources
from scaffold_runtime.errors import MisconfigurationException, how_to_install, noted
from scaffold_runtime.hparams import WithHyperparameters


@contextmanager
def blaming(key: str, arguments: Iterable[str], sources: Sources) -> Iterator[None]:
    """Add the key, and the file that holds it, to an error of the object that is created inside this block.

    Args:
        key: the key of the object's configuration, such as `callbacks.early_stopping`.
        arguments: names of its arguments; the one that the error mentions is added to the key.
        sources: which file holds which key.

    Raises:
        ConfigError: in place of a MisconfigurationException or ImportError; other errors get a note.
    """
    try:
        yield
    except Exception as error:
        full = f"{key}.{_named(str(error), list(arguments))}".rstrip(".")
        where = f"{full}{sources.of(full) or sources.of(key) * (full not in sources.options)}"
        if isinstance(error, (MisconfigurationException, ImportError)):
            raise ConfigError(f"{where}: {error}{how_to_install(error)}") from error
        noted(error, f"while making {where}")
        raise


def remember(owner: WithHyperparameters | None, config: Any) -> None:
    """Store in a module or data module the configurations of those hyperparameters that are objects."""
    if owner is None or config is None:
        return
    given = config.as_dict() if hasattr(config, "as_dict") else dict(config)
    arguments = given.get("init_args", given) if "class_path" in given else given
    owner._hparams_configured = {
        name: value
        for name, value in arguments.items()
        if name in owner.hparams and _describes(value, owner.hparams[name])
    }


def _describes(value: Any, made: Any) -> bool:
    if isinstance(value, list) and isinstance(made, (list, tuple)) and len(value) == len(made):
        return any(map(_describes, value, made))
    return isinstance(value, dict) and not isinstance(made, dict)


def _named(message: str, arguments: list[str]) -> str:
    """The argument that a message is about: the first one in it as `name=`, else the first as a word."""
    for pattern in (r"\b{}=", r"\b{}\b"):
        for name in arguments:
            if re.search(pattern.format(name), message):
                return name
    return ""


def key_of(kind: type, config: Any, at: str = "") -> str:
    """The key at which a configuration names this class as `class_path`; empty if it does not."""
    config = config.as_dict() if hasattr(config, "as_dict") else config
    if not isinstance(config, Mapping):
        return ""
    if str(config.get("class_path", "")).rpartition(".")[2] == kind.__name__:
        return at
    inner = config.get("init_args", config)
    found = (key_of(kind, value, f"{at}.{key}".lstrip(".")) for key, value in inner.items())
    return next(filter(None, found), "")
