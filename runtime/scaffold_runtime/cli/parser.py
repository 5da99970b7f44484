"""LightningArgumentParser: jsonargparse's parser, with groups for our classes and shorter errors."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse import register_unresolvable_import_paths as _register
from jsonargparse.typing import Path_fr, class_from_function
from torch.optim import Optimizer

from scaffold_runtime.cli.making import blaming, key_of
from scaffold_runtime.cli.mistakes import explain
from scaffold_runtime.cli.optimizers import LRSchedulerTypeTuple, described
from scaffold_runtime.cli.sources import Sources
from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException
from scaffold_runtime.hooks import Callback
from scaffold_runtime.module import LightningModule
from scaffold_runtime.trainer import Trainer

ArgsType = list[str] | dict[str, Any] | Namespace | None
OURS = (Trainer, LightningModule, LightningDataModule, Callback)

_register(torch)  # some of torch's functions do not know their module


class LightningArgumentParser(ArgumentParser):
    """A parser that knows the arguments of trainers, modules, data modules, callbacks and optimizers.

    Args:
        args: passed to jsonargparse's `ArgumentParser`.
        description: shown by `--help`.
        env_prefix: how environment variables begin, where `default_env` is True.
        default_env: read arguments from environment variables too.
        kwargs: passed to jsonargparse's `ArgumentParser`.
    """

    def __init__(
        self,
        *args: Any,
        description: str = "Lightning Trainer command line tool",
        env_prefix: str = "PL",
        default_env: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(
            *args, description=description, env_prefix=env_prefix, default_env=default_env, **kwargs
        )
        self.callback_keys: list[str] = []
        self.sources = Sources()
        self._groups: dict[type, str] = {}  # classes whose arguments have no class_path
        self._optimizers: dict[str, tuple[Any, str]] = {}
        self._lr_schedulers: dict[str, tuple[Any, str]] = {}

    def add_lightning_class_args(
        self,
        lightning_class: Callable[..., Any],
        nested_key: str,
        subclass_mode: bool = False,
        required: bool = True,
    ) -> Any:
        """Add the arguments of a Trainer, LightningModule, LightningDataModule or Callback.

        Args:
            lightning_class: the class, or a function annotated to return one.
            nested_key: what the arguments begin with.
            subclass_mode: accept any subclass, as `class_path` and `init_args`.
            required: whether a class must be given in subclass mode.

        Raises:
            MisconfigurationException: for any other class.
        """
        given: Any = lightning_class
        kind = given if isinstance(given, type) else class_from_function(given)
        if not issubclass(kind, OURS):
            raise MisconfigurationException(
                f"add_lightning_class_args({lightning_class!r}): give a Trainer, LightningModule, "
                "LightningDataModule or Callback, or a function annotated to return one."
            )
        if issubclass(kind, Callback):
            self.callback_keys.append(nested_key)
        if subclass_mode:
            return self.add_subclass_arguments(
                kind, nested_key, fail_untyped=False, required=required
            )
        self._groups[kind] = nested_key
        made_here = not issubclass(kind, Trainer)  # the trainer is created last
        return self.add_class_arguments(
            kind, nested_key, fail_untyped=False, instantiate=made_here, sub_configs=True
        )

    def add_optimizer_args(
        self,
        optimizer_class: type[Optimizer] | tuple[type[Optimizer], ...] = (Optimizer,),
        nested_key: str = "optimizer",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of an optimizer.

        Args:
            optimizer_class: the class, or a tuple of classes whose subclasses may be chosen.
            nested_key: what the arguments begin with.
            link_to: the argument that receives it, for `instantiate_class`; "AUTOMATIC" uses it in place of the
                model's `configure_optimizers`.
        """
        self._add_uncreated(optimizer_class, nested_key, "params")
        self._optimizers[nested_key] = (optimizer_class, link_to)

    def add_lr_scheduler_args(
        self,
        lr_scheduler_class: Any = LRSchedulerTypeTuple,
        nested_key: str = "lr_scheduler",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of a learning rate scheduler; see `add_optimizer_args`."""
        self._add_uncreated(lr_scheduler_class, nested_key, "optimizer")
        self._lr_schedulers[nested_key] = (lr_scheduler_class, link_to)

    def _add_uncreated(self, kind: Any, nested_key: str, given_later: str) -> None:
        rest: dict[str, Any] = {"instantiate": False, "fail_untyped": False, "skip": {given_later}}
        if isinstance(kind, tuple):
            about = f"a class; its arguments follow a dot, as in --{nested_key}.NAME VALUE"
            self.add_subclass_arguments(kind, nested_key, help=about, **rest)
        else:
            self.add_class_arguments(kind, nested_key, sub_configs=True, **rest)

    def link_optimizers(self) -> None:
        """Link every optimizer and scheduler that was added with a `link_to` to that argument."""
        for key, (kind, link_to) in {**self._optimizers, **self._lr_schedulers}.items():
            if link_to != "AUTOMATIC":
                compute = None if isinstance(kind, tuple) else partial(described, kind)
                self.link_arguments(key, link_to, compute_fn=compute)

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """Create the objects; an error of one of them names its key and file."""
        failed: list[Exception] = []

        def make(kind: type, /, *given: Any, **arguments: Any) -> Any:
            key = self._groups.get(kind) or key_of(kind, namespace) or kind.__name__
            try:
                with blaming(key, arguments, self.sources):
                    _refuse_empty_keys(kind, arguments)
                    return kind(*given, **arguments)
            except Exception as error:
                failed.append(error)
                raise

        try:
            making = [(make, object, True)]
            made: Namespace = super().instantiate(namespace, *args, instantiators=making, **kwargs)
        except Exception as error:  # jsonargparse's error repeats all types and arguments
            raise (failed or [error])[0] from None
        return made

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file as UTF-8, whatever the locale's encoding is."""
        file = Path_fr(path)
        with file.relative_path_context():
            text, name = Path(file.absolute).read_text(encoding="utf-8"), os.path.basename(path)
            said = re.search(r"^\s*[^#\s]", text, re.MULTILINE)  # None if all lines are comments
            parsed: Namespace = self.parse_string(text if said else "{}", name, *args, **kwargs)
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2, and say in one to three lines what is wrong, where, and what was perhaps meant."""
        if not self.exit_on_error:  # an inner parser, whose message becomes part of ours
            super().error(message, ex)
        self.exit(2, f"error: {explain(message, self)}\n")


def _refuse_empty_keys(kind: type, arguments: dict[str, Any]) -> None:
    """Refuse a key without a value, which jsonargparse accepts if the argument has a default."""
    try:
        hints = get_type_hints(getattr(kind, "__init__", None))
    except Exception:  # names that are imported for annotations only
        return
    taken = inspect.signature(kind).parameters
    for name, value in arguments.items():
        filled = name in taken and taken[name].default is not None
        if value is None and filled and hints.get(name) in (int, float, bool, str):
            raise MisconfigurationException(
                f"`{name}` is empty: expected {hints[name].__name__}, got null"
            )
