"""The available tasks and features: each is a folder under `templates/`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from scaffold import __version__
from scaffold.errors import DescriptionError, ScaffoldError
from scaffold.files import Tree, read_tree
from scaffold.names import one_line, pick

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KINDS = ("callback", "logger", "strategy", "extra")
DESCRIPTIONS = ("project.yml", "task.yml", "feature.yml")  # describe a folder; not rendered


@dataclass(frozen=True)
class Part:
    """One folder of templates, with its description."""

    kind: str
    name: str
    folder: Path
    description: str = ""
    default: bool = False
    requirements: tuple[str, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)
    monitor: str = ""
    mode: str = ""
    model: str = ""  # of a task: the class in model.py
    data: str = ""  # of a task: the class in data.py
    needs: tuple[str, ...] = ()  # other features that must be on, as kind/name
    features: tuple[str, ...] = ()  # of a task: those that are on unless chosen otherwise
    shares: tuple[str, ...] = ()  # of a task: the files it has from `shared/`, beside `tasks/`
    imports: str = ""  # the module of its optional package, to check if it is installed
    mistake: str = ""  # an error in its description, reported when it is used

    def checked(self) -> "Part":
        if self.mistake:
            raise DescriptionError(f"{self.kind} `{self.name}` cannot be used: {self.mistake}")
        return self

    @property
    def shared(self) -> dict[str, Path]:
        """The templates it has from `shared/`."""
        root = self.folder.parents[1] / "shared"
        return {path: root / f"{path}.jinja" for path in self.shares}

    @property
    def templates(self) -> dict[str, Path]:
        """All its files: templates end in `.jinja`, others, such as pictures, are copied as they are."""
        found = self.shared
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.name not in DESCRIPTIONS and path.suffix != ".pyc":
                found[path.relative_to(self.folder).as_posix()] = path
        return found


TEXT, TEXTS = (str, "a string"), (list, "a list of strings, such as [a, b]")
SHAPES: Mapping[str, tuple[type, str]] = {  # the keys of a description, and their types
    **dict.fromkeys(("description", "monitor", "mode", "model", "data", "imports"), TEXT),
    **dict.fromkeys(("requirements", "needs", "features", "shares"), TEXTS),
    "default": (bool, "true or false"),
    "trainer": (dict, "a mapping, such as {max_epochs: 3}"),
}


@dataclass(frozen=True)
class Catalogue:
    root: Path
    version: str = __version__
    plugins: tuple[Path, ...] = ()  # template folders of installed packages

    def moves(self, package: str) -> dict[str, str]:
        """Files that the templates renamed since earlier versions: old path to new path."""
        path = self.root / "moves.yml"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return yaml.load(text.replace("my_package", package), Loader=LOADER) or {}

    @cached_property
    def sources(self) -> list[Tree]:
        """All template files, by root."""
        return [read_tree(root) for root in (self.root, *self.plugins)]

    @cached_property
    def project(self) -> Part:
        return read_part(self.root / "project" / "project.yml", "project").checked()

    @cached_property
    def tasks(self) -> dict[str, Part]:
        return self._parts("tasks", "task.yml", "task")

    @cached_property
    def features(self) -> dict[str, dict[str, Part]]:
        return {kind: self._parts(f"features/{kind}", "feature.yml", kind) for kind in KINDS}

    def task(self, name: str) -> Part:
        return self.tasks[pick(name, list(self.tasks), "task")].checked()

    def feature(self, kind: str, name: str) -> Part:
        features = self.features[pick(kind, list(KINDS), "kind")]
        return features[pick(name, list(features), kind)].checked()

    def named(self, feature: str) -> Part:
        """The feature written as kind/name."""
        kind, _, name = feature.partition("/")
        return self.feature(kind, name)

    def defaults(self, task: Part) -> dict[str, tuple[str, ...]]:
        """The features of a new project of this task, by kind, unless chosen otherwise."""
        wanted = [self.named(each) for each in (*task.features, *task.needs)]
        parts = [part for kind in self.features.values() for part in kind.values() if part.default]
        return {
            kind: tuple(sorted({part.name for part in (*parts, *wanted) if part.kind == kind}))
            for kind in KINDS
        }

    def _parts(self, folder: str, description: str, kind: str) -> dict[str, Part]:
        """Of all roots; the first to have a name keeps it, so no plugin takes one of ours."""
        found = [
            path
            for root in (*self.plugins, self.root)
            for path in (root / folder).glob(f"*/{description}")
        ]
        ours = {path.parent.name: path for path in found}
        return {name: read_part(ours[name], kind) for name in sorted(ours)}


def read_part(path: Path, kind: str) -> Part:
    """One that is described wrongly is there, too, and says so where it is used."""
    part = Part(kind, path.parent.name, path.parent)
    try:
        described = yaml.load(path.read_bytes(), Loader=LOADER) or {}
        part = replace(part, **_checked(described))
        for lost in (name for name, source in part.shared.items() if not source.is_file()):
            raise ScaffoldError(f"`shares` lists {lost}, but there is no shared/{lost}.jinja")
        return part
    except (ScaffoldError, yaml.YAMLError, RecursionError) as error:
        why = one_line(str(error))
        return replace(part, description=f"cannot be used: {why}", mistake=f"{path}\n{why}")


def _checked(described: Any) -> dict[str, Any]:
    """The values by key; raises a ScaffoldError for an unknown key or a value of the wrong type."""
    if not isinstance(described, dict):
        raise ScaffoldError("it must hold `key: value` lines")
    for key, value in described.items():
        kind, name = SHAPES[pick(str(key), list(SHAPES), "key")]
        listed = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if not isinstance(value, kind) or not listed:
            raise ScaffoldError(f"`{key}` must be {name}, not {value!r}")
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in described.items()
    }


def packaged() -> Catalogue:
    """The templates of this version: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "templates"
    root = inside if inside.is_dir() else here.parent / "templates"
    return Catalogue(root, plugins=tuple(plugin_folders()))


def plugin_folders() -> Iterator[Path]:
    """Template folders of packages with an entry point `scaffold.templates`; their code is not run."""
    for entry in entry_points(group="scaffold.templates"):
        package = find_spec(entry.module.partition(".")[0])
        for place in (package and package.submodule_search_locations) or ():
            yield Path(place, *entry.module.split(".")[1:])
