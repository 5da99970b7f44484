"""The sources of a configuration: reading its files, and finding which one holds a key."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scaffold_runtime.errors import MisconfigurationException

CONFIG = ("--config", "-c")


class ConfigError(MisconfigurationException):
    """A configuration file cannot be used; the message names it."""

    exit_code = 2


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which YAML would silently drop the first."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, lines = super().compose_mapping_node(anchor), dict[str, int]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in lines:
                said = f"`{key.value}` was set in line {lines[key.value]} already"
                raise yaml.composer.ComposerError(None, None, said, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


class Sources:
    """The files of a configuration, to find where a key was written; the last one wins."""

    def __init__(self) -> None:
        self.files: list[tuple[str, Mapping[str, Any]]] = []
        self.options: set[str] = set()

    def add_options(self, words: Iterable[str]) -> None:
        """Record which keys are set on the command line, so that errors name no file for them."""
        flags = (word.partition("=")[0] for word in words if word.startswith("--"))
        self.options.update(flag[2:].rstrip("+").replace(".init_args", "") for flag in flags)

    def add(self, name: str, content: Mapping[str, Any]) -> None:
        self.files.append((name, content))

    def of(self, key: str) -> str:
        """Return " (in FILE)" for the file that `key` was written in, or an empty string."""
        if key in self.options:
            return ""
        found = [name for name, content in self.files if _holds(content, key.split("."))]
        return f" (in {found[-1]})" if found else ""


def _holds(content: Any, parts: list[str]) -> bool:
    """Whether nested mappings have this key; `init_args` may be left out of it."""
    if not parts:
        return True
    if isinstance(content, list):
        return any(_holds(item, parts) for item in content)
    if not isinstance(content, Mapping):
        return False
    if parts[0] in content and _holds(content[parts[0]], parts[1:]):
        return True
    return "init_args" in content and _holds(content["init_args"], parts)


def read_yaml(path: Path, shown: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty one is an empty mapping.

    Args:
        path: the file.
        shown: its name in errors.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{shown} cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown} is not UTF-8 text: save it in that encoding.") from None
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_mistake(error, shown, text)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"{shown} holds a {kind}, but must hold `key: value` lines.")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(
                f"{shown}: the key {key!r} is not a string; put it in quotes if it should be one."
            )
    return content


def _yaml_mistake(error: yaml.YAMLError, shown: str, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{shown} is not valid YAML: {error}"
    problem = str(getattr(error, "problem", error))
    if problem.startswith("could not find expected ':'"):  # reported some lines too late
        mark = getattr(error, "context_mark", None) or mark
    if "escape" in problem:
        problem += "; in double quotes a backslash begins one, in single quotes it does not"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    where = f"{shown}, line {mark.line + 1}"
    if "\t" in line[: mark.column + 1] or line.lstrip(" ").startswith("\t"):
        return (
            f"{where}: YAML is indented with spaces, and there is a tab here. Replace it by spaces."
        )
    said = f"{where}, column {mark.column + 1}: {problem}"
    return f"{said}\n  {line.strip()}".rstrip()


class Option(NamedTuple):
    """One option of a command line: its flag, its value if it has one, and its words."""

    flag: str
    value: str
    words: list[str]


def options(words: list[str]) -> Iterator[Option]:
    """The options of a command line; a word that belongs to no option is one without a value."""
    left = deque(words)
    while left:
        said = [left.popleft()]
        flag, equals, value = said[0].partition("=")
        if flag.startswith("-") and not equals and left and not re.match(r"-[^\d.]", left[0]):
            value = left.popleft()
            said.append(value)
        yield Option(flag, value, said)


def config_files(words: list[str]) -> list[str]:
    """The existing configuration files that a command line names; a value may also be YAML text."""
    named = [value for flag, value, _ in options(words) if flag in CONFIG]
    return [name for name in named if os.path.isfile(name)]  # False for a text too long for a path


def read_named(sources: Sources, words: list[str], sections: Iterable[str]) -> None:
    """Read the configuration files that a command line names into `sources`.

    Args:
        sources: where the files are added.
        words: the command line.
        sections: keys with a nested configuration, one per subcommand.

    Raises:
        ConfigError: if a file cannot be used.
    """
    for name in config_files(words):
        content = read_yaml(Path(name), name)
        sources.add(name, content)
        for section in sections:
            if isinstance(content.get(section), dict):
                sources.add(name, content[section])
