"""The settings in the files of `configs/`, and in those named on the command line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from scaffold_runtime.cli.sources import ConfigError, Sources, config_files, options, read_yaml
from scaffold_runtime.errors import did_you_mean
from scaffold_runtime.hooks import Callback
from scaffold_runtime.loggers import Logger

PARTS = ("trainer", "model", "data")
CHOSEN = ("model", "data")
KINDS = {"callbacks": Callback, "loggers": Logger}


class Settings:
    """The configuration of a project, and the rest of the command line.

    `--model NAME` and `--data NAME` are removed from it: `configs/model/NAME.yaml` then replaces
    `configs/model.yaml`, and the class it names replaces the one in the script.

    Args:
        folder: the folder `configs/`.
        words: the command line.

    Raises:
        ConfigError: if a file cannot be used, or an option names something that does not exist.
    """

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder = folder
        self.sources = Sources()
        self.base: dict[str, Any] = {}
        self.chosen, self.words = _chosen(words)
        named = [(name, read_yaml(Path(name), name)) for name in config_files(self.words)]
        if not any({"trainer", *KINDS} <= content.keys() for _, content in named):
            self._read_folder()
        for part, name in self.chosen.items():
            self._choose(part, name)
        for name, content in named:
            _check_parts(content, name)
        everything = [self.base, *(content for _, content in named)]
        self.by_class = [part for part in CHOSEN if self._names_class(part, everything)]
        self.names = {kind: _switched_on(kind, everything, self.words) for kind in KINDS}

    def _read_folder(self) -> None:
        if not self.folder.is_dir():
            raise ConfigError(
                f"there is no folder {self.folder}, where the configuration should be."
            )
        for part in PARTS:
            self._read(self.folder / f"{part}.yaml", part)
        for kind in KINDS:
            self.base[kind] = {}
            for path in sorted((self.folder / kind).glob("*.yaml")):
                _check_name(kind, path)
                self._read(path, kind, path.stem)
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Refuse files whose names suggest that they should be read, but which are not."""
        absent = [f"{part}.yaml" for part in PARTS if not (self.folder / f"{part}.yaml").is_file()]
        for path in sorted([*self.folder.rglob("*.y*ml"), *self.folder.rglob("*.y*ml.txt")]):
            place = path.relative_to(self.folder)
            # An editor that hides file endings may add `.txt`.
            stem = re.sub(r"\.(yml|ya?ml\.txt)$", "", path.name)
            near = [f"{stem}.yaml"] if stem != path.name else []
            if len(place.parts) == 1:
                near = difflib.get_close_matches([path.name, *near][-1], absent, n=1, cutoff=0.8)
            elif place.parts[0] not in KINDS:
                near = []
            if near:
                raise ConfigError(f"configs/{place.as_posix()} is not read: call it {near[0]}.")

    def _read(self, path: Path, part: str, name: str | None = None) -> None:
        if not path.is_file():
            return
        shown = path.relative_to(self.folder.parent).as_posix()
        content = read_yaml(path, shown)
        if not isinstance(content.get("init_args") or {}, dict):
            raise ConfigError(f"{shown}: `init_args` must hold `key: value` lines.")
        if part in KINDS and content and "class_path" not in content:
            near = did_you_mean(min(content), ["class_path"]) or " Write `class_path: ...`."
            raise ConfigError(f"{shown} names no class.{near}")
        if content.get("init_args", {}) is None:  # all lines below it are comments
            del content["init_args"]
        said = content if name is None else {name: content}
        self.base[part] = said if name is None else self.base[part] | said
        self.sources.add(shown, {part: said})

    def _choose(self, part: str, name: str) -> None:
        """Let `configs/PART/NAME.yaml` replace what is configured for this part."""
        path = self.folder / part / f"{name}.yaml"
        known = sorted(each.stem for each in path.parent.glob("*.yaml"))
        if name not in known:
            raise ConfigError(
                f"--{part} {name}: there is no configs/{part}/{name}.yaml."
                f"{did_you_mean(name, known)} There: {', '.join(known) or 'none'}."
            )
        self._read(path, part)
        if "class_path" not in self.base[part]:
            raise ConfigError(f"configs/{part}/{name}.yaml must name its class: `class_path: ...`.")

    def _names_class(self, part: str, contents: list[dict[str, Any]]) -> bool:
        """Whether a file names the class of a part; arguments for the script's own class are then dropped."""
        if not any("class_path" in (content.get(part) or {}) for content in contents):
            return False
        if "class_path" not in self.base.get(part, {}):
            self.base.pop(part, None)
        return True


def _check_name(kind: str, path: Path) -> None:
    """Refuse a file name that cannot be an option, such as that of a copy made by a file manager."""
    if not re.fullmatch(r"[\w-]+", path.stem):
        better = re.sub(r"\W+", "_", path.stem).strip("_") or "another"
        raise ConfigError(
            f"configs/{kind}/{path.name}: a name has letters, digits, `_` and `-` only, since it is that of "
            f"an option. Call it {better}.yaml, or delete it if it is a copy."
        )


def _chosen(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The names given to `--model` and `--data`, and all other words."""
    chosen: dict[str, str] = {}
    rest: list[str] = []
    for flag, name, said in options(words):
        if flag not in [f"--{part}" for part in CHOSEN]:
            rest += said
            continue
        if not name or name.startswith("-"):
            raise ConfigError(f"{flag} needs a name: that of a file in configs/{flag[2:]}/.")
        chosen[flag[2:]] = name
    return chosen, rest


def _check_parts(content: dict[str, Any], shown: str) -> None:
    for part in (*PARTS, *KINDS):
        if not isinstance(content.get(part, {}), dict):
            raise ConfigError(f"{shown}: `{part}` must hold `key: value` lines.")


def _switched_on(kind: str, contents: list[dict[str, Any]], words: list[str]) -> list[str]:
    """Names of callbacks or loggers: from files, configurations, and options that give one a class."""
    names: dict[str, None] = {}
    for content in contents:
        names.update(dict.fromkeys(content.get(kind, {})))
    given = [word[2:] for word in words if word.startswith(f"--{kind}.")]
    flags = [word.partition("=")[0].split(".") for word in given]
    names.update(dict.fromkeys(flag[1] for flag in flags if len(flag) == 2))
    for flag in flags:
        if flag[1] not in names:
            known = f"Switched on: {', '.join(names) or 'none'}."
            raise ConfigError(
                f"unknown option --{'.'.join(flag)}: `{flag[1]}` is not among the {kind}."
                f"{did_you_mean(flag[1], names)} {known}"
            )
    return list(names)
