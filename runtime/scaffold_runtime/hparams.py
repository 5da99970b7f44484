"""Hyperparameters: the arguments of an object, from which a checkpoint can create it again."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from torch import nn

from scaffold_runtime.errors import CheckpointError, MisconfigurationException, did_you_mean
from scaffold_runtime.plain import opened, to_plain

T = TypeVar("T", bound="WithHyperparameters")


class AttributeDict(dict[str, Any]):
    """A dict whose string keys are attributes too: `hparams.lr` is `hparams["lr"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"there is no hyperparameter `{name}`.{did_you_mean(name, self)}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        width = max((len(str(key)) for key in self), default=0)
        return "\n".join(f'"{key}":{"":{width - len(str(key)) + 1}}{self[key]}' for key in self)


if TYPE_CHECKING:
    of_the_class = classmethod
else:

    class of_the_class(classmethod):  # noqa: N801 - used as a decorator
        """A class method that cannot be called on an instance: it creates another object and leaves that unchanged."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            call = super().__get__(None, owner)
            return call if instance is None else partial(_refuse, owner.__name__, call.__name__)


def _refuse(owner: str, method: str, *arguments: Any, **options: Any) -> NoReturn:
    raise MisconfigurationException(
        f"`{method}` creates a new object and leaves this {owner} unchanged: write "
        f"`model = {owner}.{method}(...)` and use what it returns."
    )


class WithHyperparameters:
    """Base of modules and data modules: `save_hyperparameters`, `hparams`, `load_from_checkpoint`."""

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    _hparams: AttributeDict | None = None
    _hparams_initial: AttributeDict | None = None
    _hparams_name: str | None = None
    _hparams_configured: Mapping[str, Any] = MappingProxyType({})
    _log_hyperparams: bool = False

    @property
    def hparams(self) -> AttributeDict:
        """What `save_hyperparameters` kept, readable as attributes and as keys."""
        if self._hparams is None:
            self._hparams = AttributeDict()
        return self._hparams

    @property
    def hparams_initial(self) -> AttributeDict:
        """The hyperparameters as they were when saved, without later changes."""
        return _snapshots(self._hparams_initial or {})

    def _set_hparams(self, hparams: Any) -> None:
        """Replace all hyperparameters; the name is Lightning's."""
        self._hparams = AttributeDict(as_mapping(hparams))

    def hparams_to_save(self) -> dict[str, Any]:
        """For checkpoints: the hyperparameters, which of them are objects, and which a Namespace or OmegaConf's.

        No checkpoint holds an object: in its place is the configuration that the command line created it from, or a
        description of it. An object that is the default of its argument is left out.
        """
        plain = {**self.hparams, **self._hparams_configured}
        objects: list[str] = list(self._hparams_configured)
        kinds: dict[str, str] = {}
        taken = inspect.signature(type(self).__init__).parameters
        for name in plain.keys() - self._hparams_configured.keys():
            value = plain[name]
            try:
                plain[name] = opened(value)
                to_plain(plain[name], name)
                if plain[name] is not value:
                    kinds[name] = type(value).__name__
            except CheckpointError as error:
                if name in taken and taken[name].default is value:
                    del plain[name]
                    continue
                plain[name] = str(error).partition(", which")[0]
                objects.append(name)
        kept = {"hparams_name": self._hparams_name, "hyper_parameters": plain}
        return kept | {"hparams_made": sorted(objects), "hparams_kinds": kinds}

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: str | Iterable[str] | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep arguments of `__init__` in `self.hparams`, for checkpoints and loggers.

        Without arguments, all of them; with strings, the ones named; with one mapping, Namespace or
        dataclass, its entries. `ignore` leaves names out. `logger=False` keeps them from loggers.
        Checkpoints hold plain values and tensors; `load_from_checkpoint` asks for the others.

        Raises:
            MisconfigurationException: if a name is not an argument of `__init__`.
        """
        if frame is None:
            current = inspect.currentframe()
            frame = current.f_back if current else None
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        given = init_arguments(self, frame)
        if not args and not given and frame and not frame.f_code.co_name.endswith("init__"):
            raise MisconfigurationException(
                f"save_hyperparameters() keeps the arguments of `__init__`, and was called in "
                f"`{frame.f_code.co_name}`. Call it in `__init__`, or pass what is to be kept."
            )
        self._hparams_name = "kwargs"
        if not args:
            chosen = given
        elif all(isinstance(arg, str) for arg in args):
            chosen = _named(args, given, type(self).__name__)
        elif len(args) == 1:
            chosen = as_mapping(args[0])
            self._hparams_name = next((k for k, v in given.items() if v is args[0]), "kwargs")
        else:
            raise MisconfigurationException(
                "save_hyperparameters() takes names of arguments, or one mapping, Namespace or dataclass; "
                f"given were {', '.join(type(arg).__name__ for arg in args)}."
            )
        self._log_hyperparams = logger
        self.hparams.update({k: v for k, v in chosen.items() if k not in ignored})
        self._hparams_initial = _snapshots(self.hparams)

    @of_the_class
    def load_from_checkpoint(
        cls: type[T],  # noqa: N805 - a class method
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: str | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> T:
        """Create an object from the hyperparameters and weights in a checkpoint.

        `kwargs` override hyperparameters. Nothing but tensors and plain values is read from the
        file, whatever `weights_only` says, so a checkpoint cannot run code.

        Raises:
            CheckpointError: if the file is missing, damaged or does not fit the class.
        """
        from scaffold_runtime.checkpoint.load import object_from_checkpoint

        made: T = object_from_checkpoint(
            cls, checkpoint_path, map_location, hparams_file, strict, kwargs
        )
        return made


def fitting(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` whose names are arguments of `function`."""
    taken = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    return {name: value for name, value in values.items() if any_name or name in taken}


def init_arguments(owner: object, frame: FrameType | None) -> dict[str, Any]:
    """The arguments of all `__init__` frames of `owner` from `frame` outwards, outermost last."""
    collected: dict[str, Any] = {}
    while frame is not None and not _is_init_of(frame, owner):  # skip methods that `__init__` calls
        frame = frame.f_back
    while frame is not None and _is_init_of(frame, owner):
        collected.update(arguments_of(frame))
        frame = frame.f_back
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if field.name in collected and field.default_factory is not dataclasses.MISSING:
            collected[field.name] = getattr(owner, field.name)  # the argument is only a marker
    return {key: value for key, value in collected.items() if not key.startswith("__")}


def arguments_of(frame: FrameType) -> dict[str, Any]:
    """The arguments of the method that runs in `frame`, by name, without `self`."""
    info = inspect.getargvalues(frame)
    by_name = {name: info.locals[name] for name in info.args[1:]}
    return by_name | (info.locals[info.keywords] if info.keywords else {})


def _is_init_of(frame: FrameType, owner: object) -> bool:
    """Whether this is the frame of an `__init__` of `owner`."""
    code = frame.f_code
    first = code.co_varnames[0] if code.co_argcount else ""
    return code.co_name == "__init__" and bool(first) and frame.f_locals.get(first) is owner


def hparams_to_log(module: WithHyperparameters, datamodule: WithHyperparameters) -> dict[str, Any]:
    """The hyperparameters of both for loggers, as they were when saved.

    Raises:
        MisconfigurationException: if both have the same name with different values.
    """
    mine, theirs = _logged(module), _logged(datamodule)
    for name in mine.keys() & theirs.keys():
        if not _same(mine[name], theirs[name]):
            raise MisconfigurationException(
                f"the hyperparameter `{name}` has two values, in the module {mine[name]!r} and in the data "
                f"module {theirs[name]!r}: rename one, or give one of them `save_hyperparameters(logger=False)`."
            )
    return {**theirs, **mine}


def _logged(owner: WithHyperparameters) -> dict[str, Any]:
    if not owner._log_hyperparams:
        return {}
    return {**owner.hparams_initial, **owner._hparams_configured}


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one is other or one == other)
    except (RuntimeError, ValueError):
        return False  # the comparison of arrays has no single truth value


def as_mapping(value: Any) -> dict[str, Any]:
    """The entries of a mapping, Namespace or dataclass."""
    if isinstance(value, Namespace):
        return dict(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise MisconfigurationException(
        f"hyperparameters of type {type(value).__name__} are not supported: "
        "pass a mapping, an argparse.Namespace or a dataclass."
    )


def _named(names: tuple[str, ...], given: dict[str, Any], owner: str) -> dict[str, Any]:
    for name in names:
        if name not in given:
            raise MisconfigurationException(
                f"save_hyperparameters({name!r}): {owner}.__init__ has no argument `{name}`."
                f"{did_you_mean(name, given)}"
            )
    return {name: given[name] for name in names}


def _snapshots(hparams: Mapping[str, Any]) -> AttributeDict:
    return AttributeDict({key: _snapshot(value) for key, value in hparams.items()})


def _snapshot(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value  # a copy of its weights could fill the memory
    try:
        return copy.deepcopy(value)
    except Exception:
        return value  # what cannot be copied is kept itself
