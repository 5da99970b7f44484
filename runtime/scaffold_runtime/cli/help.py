"""The help of a project: one line per option, with its current value."""

from __future__ import annotations

import shutil
import textwrap
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from scaffold_runtime.cli.parser import LightningArgumentParser

NARROWEST = 40  # width of descriptions; with less room they go below the option

Row = tuple[str, Any, str]


class ProjectParser(LightningArgumentParser):
    """A parser whose help shows the values in `configs/`.

    Jsonargparse's own help describes each class in general and fills hundreds of lines.
    """

    configured: str | None = None

    def format_help(self, *args: Any) -> str:
        """The usage, then each option with its current value and its description."""
        if self.configured is None:  # the parser of one class, for --callbacks.NAME.help
            return super().format_help(*args)
        config = self.parse_args(["--config", self.configured]).as_dict()
        about = {action.dest: str(action.help or "") for action in self._actions}
        lines = [self.format_usage(), self.description or "", "", "options"]
        single: list[Row] = [
            ("--help", None, "show this and exit"),
            ("--print_config", None, "print the resolved configuration and exit"),
            ("--config", None, about.pop("config")),
        ]
        parts = {key: value for key, value in config.items() if isinstance(value, dict)}
        told = [key for key, text in about.items() if text != SUPPRESS]
        alone = [key for key in config if key in told and key not in parts]
        single += [(f"--{key}", config[key], about[key]) for key in alone]
        lines += _table(single)
        for key, value in parts.items():
            for name, title, options in _sections(key, value):
                items = options.items()
                rows = [(f"--{name}.{k}", v, about.get(f"{key}.{k}", "")) for k, v in items]
                lines += ["", title, *_table(rows)]
        return "\n".join(lines) + "\n"


def _sections(key: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The sections of the options under a key, one per class: (key, heading, values)."""
    if "class_path" in value:
        yield key, f"{key}  {value['class_path']}", value.get("init_args") or {}
        return
    nested = [k for k, item in value.items() if isinstance(item, Mapping) and "class_path" in item]
    plain = {name: item for name, item in value.items() if name not in nested}
    if plain:
        yield key, key, plain
    for name in nested:
        yield from _sections(f"{key}.{name}", value[name])


def _table(rows: Iterable[Row]) -> list[str]:
    shown = [(name, _text(value), about) for name, value, about in rows]
    left = max((len(name) for name, _, _ in shown), default=0)  # a class may have no arguments
    middle = max((len(value) for _, value, _ in shown), default=0)
    indent = left + middle + 6
    room = shutil.get_terminal_size().columns - 1 - indent
    lines = []
    for name, value, about in shown:
        line = f"  {name:<{left}}  {value:<{middle}}  "
        below, width = (" " * indent, room) if room >= NARROWEST else (" " * 8, room + indent - 8)
        described = textwrap.wrap(about, width) or [""]
        first = described.pop(0) if room >= NARROWEST else ""
        lines += [(line + first).rstrip(), *(below + more for more in described if more)]
    return lines


def _text(value: Any) -> str:
    if value is None:
        return ""
    return yaml.safe_dump(value, default_flow_style=True, width=999).removesuffix("...\n").strip()
