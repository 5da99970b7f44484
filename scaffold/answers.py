"""The answers a project was generated from, stored in `.scaffold/answers.yml`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import yaml

from scaffold import __version__
from scaffold.catalogue import KINDS, LOADER, Catalogue, Part
from scaffold.errors import DescriptionError, ScaffoldError
from scaffold.names import check_name, one_line, package_name, public

SCHEMA = 1
REQUIRED = ("version", "name", "task", "features")
FIX = "after a merge, run `scaffold doctor --rebuild`; else fix it by hand or restore it from git"
EXCLUSIVE = {"strategy"}  # kinds of which only one feature can be on
FLAGS = {"callbacks": "callback", "loggers": "logger", "strategy": "strategy", "extras": "extra"}


@dataclass(frozen=True)
class Answers:
    name: str
    task: str
    features: Mapping[str, tuple[str, ...]]
    author: str = ""
    description: str = ""
    runtime: str = ""  # empty: the compatible range; else a version, a path or `vendored`
    version: str = __version__
    templates: str = ""  # the digest of the templates, see `render.digest`
    created: str = __version__  # the version that generated the project
    command: str = ""  # the command line that generated it
    template: str = ""  # a template of the team's own, as SOURCE or SOURCE@REF
    template_answers: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)  # unknown keys, of later versions
    # read from `train.py`, not stored
    trained: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return package_name(self.name)

    def on(self, kind: str) -> tuple[str, ...]:
        return self.features.get(kind, ())

    def classes(self, task: Part) -> dict[str, tuple[str, str]]:
        """Module and class of the `model` and of the `data` that `train.py` trains."""
        ours = {"model": (f"{self.package}.model", task.model)}
        ours |= {"data": (f"{self.package}.data", task.data)}
        return {**ours, **self.trained}

    def parts(self, catalogue: Catalogue) -> list[Part]:
        """The template folders to render; later ones override earlier ones."""
        if self.template:
            return []
        try:
            features = [catalogue.feature(kind, name) for kind in KINDS for name in self.on(kind)]
            return [catalogue.project, catalogue.task(self.task), *features]
        except DescriptionError:
            raise
        except ScaffoldError as error:  # from the file: flags are checked earlier
            fix = way_out(self.lost(catalogue)[:1])
            raise ScaffoldError(f"`.scaffold/answers.yml`: {error}\n{fix}") from None

    def lost(self, catalogue: Catalogue) -> list[tuple[str, str]]:
        """Kind and name of active features that no template or installed plugin provides any more."""
        on = [(kind, name) for kind in KINDS for name in self.on(kind)]
        return [(kind, name) for kind, name in on if name not in catalogue.features[kind]]

    def with_feature(self, kind: str, name: str) -> "Answers":
        others = () if kind in EXCLUSIVE else self.on(kind)
        return self._with(kind, sorted({*others, name}))

    def without_feature(self, kind: str, name: str) -> "Answers":
        return self._with(kind, [each for each in self.on(kind) if each != name])

    def complete(self, catalogue: Catalogue) -> "Answers":
        """The answers, plus the features that the task and the other features need."""
        answers = self
        for part in self.parts(catalogue):
            for need in map(catalogue.named, part.needs):
                if need.name in answers.on(need.kind):
                    continue
                if need.kind in EXCLUSIVE and answers.on(need.kind):
                    raise ScaffoldError(
                        f"{part.kind} `{part.name}` needs {need.kind} `{need.name}`, "
                        f"not `{answers.on(need.kind)[0]}`"
                    )
                answers = answers.with_feature(need.kind, need.name)
        return self if answers == self else answers.complete(catalogue)

    def _with(self, kind: str, names: list[str]) -> "Answers":
        return replace(self, features={**self.features, kind: tuple(names)})


def way_out(lost: list[tuple[str, str]]) -> str:
    """How to get rid of features that nothing provides any more."""
    ways = [f"`scaffold remove {kind} {one_line(name)}`" for kind, name in lost]
    return ", or ".join(["install the package that provides it", *ways])


TEXTS = [each.name for each in fields(Answers) if each.type is str]


def default_answers(name: str, catalogue: Catalogue) -> Answers:
    check_name(name)
    task = next(part for part in catalogue.tasks.values() if part.default)
    features = catalogue.defaults(task)
    return Answers(name, task.name, features, version=catalogue.version, created=catalogue.version)


def command(answers: Answers) -> str:
    """The command line that generates the same project."""
    chosen = [
        f"--{flag} {','.join(answers.on(kind)) or 'none'}"
        for flag, kind in FLAGS.items()
        if answers.on(kind) or kind in ("callback", "logger")  # these have defaults: say `none`
    ]
    chosen += [f"--runtime {answers.runtime}"] if answers.runtime == "vendored" else []
    return " ".join([f"scaffold new {answers.name} --task {answers.task}", *chosen])


def to_yaml(answers: Answers) -> bytes:
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "version": answers.version,
        "templates": answers.templates,
        "name": answers.name,
        "task": answers.task,
        "features": [f"{kind}/{name}" for kind in KINDS for name in answers.on(kind)],
        "description": one_line(answers.description),
        "author": one_line(answers.author),
        "runtime": answers.runtime,
        "created": answers.created,
        "command": public(answers.command),
        **_own(answers),
        **answers.other,
    }
    head = b"# What this project was made from. `scaffold add`, `remove` and `update` keep it.\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    return head + text.encode()


def from_yaml(data: bytes) -> Answers:
    """Validates the file, since it may have been edited or merged by hand."""
    try:
        raw = yaml.load(data, Loader=LOADER)
        if missing := [key for key in REQUIRED if key not in raw]:
            raise ScaffoldError(f"`.scaffold/answers.yml` has no `{missing[0]}:`\n{FIX}")
        listed = raw.pop("features")
        features = _by_kind(listed if isinstance(listed, list) else ())
        schema = int(raw.pop("schema", SCHEMA))
        texts = {key: str(raw.pop(key) or "") for key in TEXTS if key in raw}
        own = dict(raw.pop("template_answers", {}))
        answers = Answers(features=features, template_answers=own, other=raw, trained={}, **texts)
        check_name(answers.name)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError):
        raise ScaffoldError(f"`.scaffold/answers.yml` cannot be read\n{FIX}") from None
    for kind in EXCLUSIVE:
        if len(on := answers.on(kind)) > 1:
            what = f"`features` lists {kind} {' and '.join(on)}, but only one can be on"
            raise ScaffoldError(f"`.scaffold/answers.yml`: {what}\ndelete the other line")
    if not re.fullmatch(r"\d[\w.+-]*", answers.version, re.ASCII):
        raise ScaffoldError(
            f"`.scaffold/answers.yml`: `version: {one_line(answers.version)}` is not a version\n"
            "use the one in `.scaffold/lock.json`"
        )
    if schema > SCHEMA or numbers(answers.version) > numbers(__version__):
        version = one_line(answers.version)
        raise ScaffoldError(
            f"this project was generated by scaffold {version}, but this is {__version__}\n"
            f'upgrade: pip install "torch-scaffold>={version}"'
        )
    _check_features(listed)
    return answers


def _own(answers: Answers) -> dict[str, Any]:
    if not answers.template:
        return {}
    template, own = public(answers.template), dict(answers.template_answers)
    return {"template": template, "template_answers": own}


def _check_features(listed: Any) -> None:
    """An unreadable entry is an error: treated as switched off, its files would be deleted."""
    if not isinstance(listed, list):
        entry = f"`features` is `{one_line(str(listed))}`, not a list"
        how = "write each on a line below, as `- kind/name`, or `features: []` for none"
        raise ScaffoldError(f"`.scaffold/answers.yml`: {entry}\n{how}")
    for each in map(str, listed):
        kind, _, name = each.partition("/")
        if kind not in KINDS or not name:
            entry = f"`features` lists `{one_line(each)}`"
            how = f"write kind/name, where kind is one of {', '.join(KINDS)}"
            raise ScaffoldError(f"`.scaffold/answers.yml`: {entry}\n{how}")


def _by_kind(features: Iterable[str]) -> dict[str, tuple[str, ...]]:
    pairs = sorted({str(each).partition("/")[::2] for each in features})
    return {kind: tuple(name for each, name in pairs if each == kind) for kind in KINDS}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def with_flags(answers: Answers, flags: Mapping[str, str | None], catalogue: Catalogue) -> Answers:
    """`answers` with the command-line flags applied."""
    task = catalogue.task(answers.task if flags["task"] is None else flags["task"])
    features = catalogue.defaults(task)
    for kind in features:
        if (names := flags[kind]) is not None:
            features[kind] = _features(kind, names, catalogue)
    author, description = (one_line(flags[key] or "") for key in ("author", "description"))
    return replace(
        answers, task=task.name, features=features, author=author, description=description
    )


def _features(kind: str, names: str, catalogue: Catalogue) -> tuple[str, ...]:
    words = [word.strip() for word in names.split(",") if word.strip()]
    if "none" in words and len(words) > 1:
        raise ScaffoldError(f"{kind}s {one_line(names)}: `none` cannot be combined with others")
    words = [word for word in words if word != "none"]
    return tuple(sorted({catalogue.feature(kind, word).name for word in words}))
