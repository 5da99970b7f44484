"""LightningCLI: a model, a data module and a trainer from the command line and YAML files."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import yaml
from jsonargparse import Namespace
from torch.optim import Optimizer

from scaffold_runtime.cli.making import blaming, remember
from scaffold_runtime.cli.optimizers import ReduceLROnPlateau, install, the_automatic
from scaffold_runtime.cli.parser import ArgsType, LightningArgumentParser
from scaffold_runtime.cli.save import SaveConfigCallback
from scaffold_runtime.cli.sources import ConfigError, Sources, read_named
from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import MisconfigurationException, warn
from scaffold_runtime.hooks import Callback, overridden
from scaffold_runtime.hparams import as_mapping
from scaffold_runtime.module import LightningModule
from scaffold_runtime.seed import seed_everything
from scaffold_runtime.trainer import Trainer

# Arguments of subcommands that the CLI itself passes, not the command line.
OF_CLI = ("model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders")
SUBCOMMANDS = {name: {*OF_CLI} for name in ("fit", "validate", "test", "predict")}

# Not in Lightning's `fit`; and other subcommands must be able to read a config file of `fit`.
NOT_LIGHTNINGS = ("restore", "restore_keys", "restore_strict", "restore_lr")


class LightningCLI:
    """Parse the command line, create trainer, model and data module, and run the subcommand.

    Args:
        model_class: the model, or a function annotated to return one; None takes any by `--model`.
        datamodule_class: the data module, likewise, by `--data`.
        save_config_callback: saves the configuration of each run; None saves none.
        save_config_kwargs: arguments of `save_config_callback`.
        trainer_class: the trainer, or a function annotated to return one.
        trainer_defaults: defaults of the trainer's arguments; callbacks given here are always added.
        seed_everything_default: the default of `--seed_everything`: a seed, True for any, False for none.
        parser_kwargs: arguments of the parser, or of each subcommand's, by its name.
        parser_class: the parser.
        subclass_mode_model: accept subclasses of `model_class`, by `class_path`.
        subclass_mode_data: accept subclasses of `datamodule_class`, by `class_path`.
        args: what to parse in place of the command line: a list, or a dict or Namespace of values.
        run: offer subcommands and run the chosen one; False only creates the objects.
        auto_configure_optimizers: accept `--optimizer` and `--lr_scheduler`.
        load_from_checkpoint_support: accepted for compatibility with Lightning; here no checkpoint names code.

    Raises:
        MisconfigurationException: if settings contradict each other. A wrong command line exits with 2.
    """

    config: Namespace
    config_init: Namespace
    model: Any
    datamodule: Any
    trainer: Any

    def __init__(
        self,
        model_class: Callable[..., LightningModule] | None = None,
        datamodule_class: Callable[..., LightningDataModule] | None = None,
        save_config_callback: type[SaveConfigCallback] | None = SaveConfigCallback,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: Callable[..., Trainer] = Trainer,
        trainer_defaults: dict[str, Any] | None = None,
        seed_everything_default: bool | int = True,
        parser_kwargs: dict[str, Any] | None = None,
        parser_class: type[LightningArgumentParser] = LightningArgumentParser,
        subclass_mode_model: bool = False,
        subclass_mode_data: bool = False,
        args: ArgsType = None,
        run: bool = True,
        auto_configure_optimizers: bool = True,
        load_from_checkpoint_support: bool = True,
    ) -> None:
        self.model_class = model_class or LightningModule
        self.datamodule_class = datamodule_class or LightningDataModule
        self.subclass_mode_model = model_class is None or subclass_mode_model
        self.subclass_mode_data = datamodule_class is None or subclass_mode_data
        self._data_required = datamodule_class is not None
        self.save_config_callback = save_config_callback
        self.save_config_kwargs = save_config_kwargs or {}
        self.trainer_class = trainer_class
        self.trainer_defaults = trainer_defaults or {}
        self.seed_everything_default = seed_everything_default
        self.parser_class = parser_class
        self.auto_configure_optimizers = auto_configure_optimizers
        self.returned: Any = None

        self._subparsers: dict[str, LightningArgumentParser] = {}
        self.setup_parser(run, parser_kwargs or {}, args)
        self.parse_arguments(self.parser, args)
        self.subcommand: str | None = self.config["subcommand"] if run else None
        self._seed()
        self.before_instantiate_classes()
        self.instantiate_classes()
        self.after_instantiate_classes()
        if self.subcommand is not None:
            self._run_subcommand(self.subcommand)

    # -- the parser -------------------------------------------------------------------------------

    def setup_parser(self, run: bool, parser_kwargs: dict[str, Any], args: ArgsType) -> None:
        """Create `self.parser`, with a parser for each subcommand if `run`."""
        names = self.subcommands() if run else ()
        per_subcommand = {name: parser_kwargs[name] for name in names if name in parser_kwargs}
        own = {k: v for k, v in parser_kwargs.items() if k not in per_subcommand}
        self.parser = self.init_parser(**own)
        if run:
            self._add_subcommands(per_subcommand, _first_word(args))
        else:
            self._add_arguments(self.parser)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create a parser that reads configuration files."""
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="a YAML file; repeat to merge")
        return parser

    def _add_subcommands(self, kwargs: dict[str, Any], first: str | None) -> None:
        subcommands = self.parser.add_subcommands()
        for name in self.subcommands():
            options = {"description": _first_line(self.trainer_class, name), **kwargs.get(name, {})}
            parser = self._subparsers[name] = self.init_parser(**options)
            subcommands.add_subcommand(name, parser, help=options["description"])
            if first not in self.subcommands() or name == first:  # the others are not used
                self._add_arguments(parser, name)

    def _add_arguments(
        self, parser: LightningArgumentParser, subcommand: str | None = None
    ) -> None:
        self.add_default_arguments_to_parser(parser)
        self.add_core_arguments_to_parser(parser)
        self.add_arguments_to_parser(parser)
        if self.auto_configure_optimizers:
            if not parser._optimizers:
                parser.add_optimizer_args((Optimizer,))
            if not parser._lr_schedulers:
                parser.add_lr_scheduler_args()
        parser.link_optimizers()
        if subcommand is not None:
            skip: set[str | int] = {*self.subcommands()[subcommand], *NOT_LIGHTNINGS}
            kind = self.trainer_class if isinstance(self.trainer_class, type) else Trainer
            parser.add_method_arguments(kind, subcommand, skip=skip)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--seed_everything`."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="seed of all random numbers; true for any, false for none",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of trainer, model and data module."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        given = {f"trainer.{k}": v for k, v in self.trainer_defaults.items() if k != "callbacks"}
        parser.set_defaults(given)
        parser.add_lightning_class_args(self.model_class, "model", self.subclass_mode_model)
        data = (self.datamodule_class, "data", self.subclass_mode_data, self._data_required)
        parser.add_lightning_class_args(*data)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Override this to add arguments, link them, or set defaults."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that can be run, and which of their arguments are not parsed."""
        return SUBCOMMANDS

    # -- parsing ----------------------------------------------------------------------------------

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse into `self.config`."""
        if isinstance(args, (dict, Namespace)):
            _make_known(str(args))
            self.config = parser.parse_object(args)
            return
        words = sys.argv[1:] if args is None else list(args)
        sources = self._sources(words)
        _make_known(f"{words} {sources.files}")
        self.config = parser.parse_args(words)

    def _sources(self, words: list[str]) -> Sources:
        """The configuration files on the command line, made known to every parser for its errors."""
        sources = self.parser.sources
        sources.add_options(words)
        for parser in self._subparsers.values():
            parser.sources = sources
        try:
            read_named(sources, words, self.subcommands())
        except ConfigError as error:
            self.parser.error(str(error))
        return sources

    def _seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if seed is False or seed is None:
            return
        chosen = seed_everything(None if seed is True else seed, workers=True)
        self._section(self.config)["seed_everything"] = chosen  # so that a saved config repeats it

    def _section(self, config: Namespace) -> Any:
        return config if self.subcommand is None else config[self.subcommand]

    def _get(self, config: Namespace, key: str, default: Any = None) -> Any:
        """A value of the chosen subcommand's part of `config`."""
        return self._section(config).get(key, default)

    @property
    def config_dump(self) -> dict[str, Any]:
        """The configuration as plain values, as it is saved: that of the chosen subcommand, if any."""
        text = self._parser.dump(self._section(self.config), skip_unset=False)
        return dict(yaml.safe_load(text))

    @property
    def _parser(self) -> LightningArgumentParser:
        return self.parser if self.subcommand is None else self._subparsers[self.subcommand]

    # -- creating objects -------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Override this to do something before model, data module and trainer are created."""

    def instantiate_classes(self) -> None:
        """Create `self.model`, `self.datamodule` and `self.trainer`."""
        self.config_init = self.parser.instantiate(self.config)
        self.model = self._get(self.config_init, "model")
        self.datamodule = self._get(self.config_init, "data")
        remember(self.model, self._get(self.config, "model"))
        remember(self.datamodule, self._get(self.config, "data"))
        self._configure_optimizers_from_config()
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self) -> None:
        """Override this to do something with the objects that were created."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Create the trainer.

        Args:
            kwargs: arguments that override those of the configuration.
        """
        given = as_mapping(self._get(self.config_init, "trainer", {}))
        settings = {**given, **kwargs}
        settings["callbacks"] = [
            *_listed(settings.get("callbacks")),
            *(self._get(self.config_init, key) for key in self._parser.callback_keys),
            *_listed(self.trainer_defaults.get("callbacks")),
            *self._save_config(settings),
        ]
        with blaming("trainer", given, self.parser.sources):
            return self.trainer_class(**settings)

    def _save_config(self, settings: dict[str, Any]) -> list[Callback]:
        if self.save_config_callback is None or settings.get("fast_dev_run"):
            return []
        section = self._section(self.config)
        return [self.save_config_callback(self._parser, section, **self.save_config_kwargs)]

    # -- optimizers -------------------------------------------------------------------------------

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: Any | None = None
    ) -> Any:
        """Replaces the model's `configure_optimizers` when an optimizer is configured.

        Args:
            lightning_module: the model.
            optimizer: the optimizer of its parameters.
            lr_scheduler: the scheduler, if one is configured.
        """
        if lr_scheduler is None:
            return optimizer
        if isinstance(lr_scheduler, ReduceLROnPlateau):
            schedule = {"scheduler": lr_scheduler, "monitor": lr_scheduler.monitor}
            return {"optimizer": optimizer, "lr_scheduler": schedule}
        return [optimizer], [lr_scheduler]

    def _configure_optimizers_from_config(self) -> None:
        """Install the configured optimizer, if there is one, in the model."""
        if not self.auto_configure_optimizers:
            return
        parser, configured = self._parser, partial(self._get, self.config_init)
        optimizer = the_automatic(parser._optimizers, "optimizer", configured)
        scheduler = the_automatic(parser._lr_schedulers, "learning rate scheduler", configured)
        if optimizer is None:
            if scheduler is not None:
                raise MisconfigurationException(
                    "--lr_scheduler needs an optimizer: give one with --optimizer."
                )
            return
        if overridden("configure_optimizers", self.model, LightningModule):
            warn(
                f"the configured optimizer is used, not {type(self.model).__name__}.configure_optimizers."
            )
        install(self.model, self.configure_optimizers, optimizer, scheduler)

    # -- running ----------------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the subcommand, or a subclass's method of that name, with its `before_` and `after_` hooks, and store the
        result in `self.returned`."""
        getattr(self, f"before_{subcommand}", lambda: None)()
        section, method = self._section(self.config_init), getattr(self.trainer, subcommand)
        names = inspect.signature(method).parameters.keys() - self.subcommands()[subcommand]
        options = {name: section[name] for name in names if name in section}
        if self.datamodule is not None:
            options["datamodule"] = self.datamodule
        self.returned = getattr(self, subcommand, method)(model=self.model, **options)
        getattr(self, f"after_{subcommand}", lambda: None)()


def _first_word(args: ArgsType) -> str | None:
    words = sys.argv[1:] if args is None else args
    return words[0] if isinstance(words, list) and words else None


def _first_line(trainer_class: Any, method: str) -> str:
    text = getattr(getattr(trainer_class, method, None), "__doc__", None) or method
    return str(text).strip().splitlines()[0]


def _make_known(text: str) -> None:
    """Import FSDPStrategy if it is mentioned: jsonargparse finds a bare class name only among imported classes."""
    if "FSDPStrategy" in text:
        importlib.import_module("scaffold_runtime.strategies.fsdp")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
