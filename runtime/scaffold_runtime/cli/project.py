"""`run`: the command line of a generated project, over the files in its `configs/`."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from scaffold_runtime.checkpoint.find import find_checkpoint
from scaffold_runtime.cli.check import CHECK, check
from scaffold_runtime.cli.help import ProjectParser
from scaffold_runtime.cli.lightning import SUBCOMMANDS, LightningCLI
from scaffold_runtime.cli.outcome import report_fit, save_predictions, shown_path
from scaffold_runtime.cli.parser import LightningArgumentParser
from scaffold_runtime.cli.save import write_config
from scaffold_runtime.cli.settings import KINDS, Settings
from scaffold_runtime.cli.sources import CONFIG, ConfigError, options, read_yaml
from scaffold_runtime.data import LightningDataModule
from scaffold_runtime.errors import CheckpointError, did_you_mean, hide_passwords, plain_errors
from scaffold_runtime.module import LightningModule
from scaffold_runtime.trainer import Trainer

DESCRIPTION = """Train, validate, test or predict; without a command, train.
`check` builds everything in configs/ without training.
Values come from the files in configs/, then from --config files, then from options.
--model NAME takes class and arguments from configs/model/NAME.yaml, --data NAME from configs/data/.
SCAFFOLD_TRACEBACK=1 shows where an error was raised."""


def run(
    model_class: Callable[..., LightningModule],
    datamodule_class: Callable[..., LightningDataModule],
    configs: str | os.PathLike[str] = "configs",
    args: list[str] | None = None,
) -> ProjectCLI:
    """Run a project: `python train.py [fit|validate|test|predict|check] [options]`.

    `configs` is a folder beside the calling script: `trainer.yaml`, `model.yaml` and `data.yaml` hold
    arguments; each file in `callbacks/` and `loggers/` holds a `class_path` and its `init_args`, and is
    switched on under its own name. `--model NAME` and `--data NAME` take the class and the arguments
    that `model/NAME.yaml` and `data/NAME.yaml` hold in the same way. `--config` files and options override
    them; a file with trainer, callbacks and loggers, such as the `config.yaml` of a run, replaces the
    whole folder. `check` only creates the objects: once as configured, and once with each file that
    could be chosen.

    The project's folder is the working directory while it runs, so relative paths in configurations
    mean the same wherever it is started. YAML files and checkpoints named on the command line are first looked
    for where it is started.

    Args:
        model_class: the model.
        datamodule_class: the data module.
        configs: the folder of configurations.
        args: what to parse in place of the command line.

    Raises:
        SystemExit: with 2 for a wrong configuration, 1 for an error of the runtime, 130 for Ctrl-C.
    """
    script = Path(sys._getframe(1).f_code.co_filename)
    here = script.parent if script.is_file() else Path.cwd()
    folder = (here / configs).resolve()
    words = sys.argv[1:] if args is None else list(args)
    with plain_errors(), _working_in(folder.parent) as started_in:
        words = _absolute_paths(words, started_in)
        if args is None:
            sys.argv[1:] = words  # for processes started later, which run in the project's folder
        command, words = _command(words)

        def made(words: list[str]) -> ProjectCLI:
            return ProjectCLI(model_class, datamodule_class, command, Settings(folder, words))

        if command == CHECK and not {"-h", "--help"}.intersection(words):
            return check(made, folder, words)
        cli = made(words)
        cli.run_command(started_in)
    return cli


class ProjectCLI(LightningCLI):
    """The command line of a project; see `run`."""

    def __init__(
        self,
        model_class: Callable[..., LightningModule],
        datamodule_class: Callable[..., LightningDataModule],
        command: str,
        settings: Settings,
    ) -> None:
        self.command, self.settings = command, settings
        for word in settings.words:
            if word.startswith("--restore") and command != "fit":
                raise ConfigError(
                    f"{word.partition('=')[0]} is an option of fit, not of {command}."
                )
        super().__init__(
            None if "model" in settings.by_class else model_class,
            None if "data" in settings.by_class else datamodule_class,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "runs"},
            parser_kwargs={
                "description": DESCRIPTION,
                "usage": "%(prog)s [fit|validate|test|predict|check] [--PART.KEY VALUE ...] [--config FILE]",
            },
            parser_class=ProjectParser,
            args=["--config", yaml.safe_dump(settings.base), *_files_first(settings.words)],
            run=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create a parser whose help shows what is configured."""
        parser = super().init_parser(**kwargs)
        parser.sources = self.settings.sources
        if isinstance(parser, ProjectParser):
            parser.configured = yaml.safe_dump(self.settings.base)
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--seed_everything`, and the options of `fit` for what to load from a checkpoint."""
        super().add_default_arguments_to_parser(parser)
        # For commands other than fit, too, since the config file of a run contains them.
        parser.add_method_arguments(Trainer, "fit", skip={*SUBCOMMANDS["fit"], "weights_only"})
        for action in parser._actions if self.command != "fit" else ():
            if action.dest.startswith("restore"):
                action.help = SUPPRESS

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for kind, base in KINDS.items():
            for name in self.settings.names[kind]:
                parser.add_subclass_arguments(base, f"{kind}.{name}", required=False)
            if not self.settings.names[kind]:
                parser.add_argument(f"--{kind}", type=dict, default={}, help="none is switched on")

    def instantiate_classes(self) -> None:
        """Create everything; to use a checkpoint, the model as its run configured it."""
        super().instantiate_classes()
        fits, wanted = self.command == "fit", self.config["ckpt_path"]
        if self.command == CHECK or (fits and self.config["restore"] != "all"):
            return
        if wanted is None:
            if not fits:
                self.trainer.print(
                    "the model has its initial weights; --ckpt_path best loads those of the last training"
                )
            return
        try:
            checkpoint = find_checkpoint(self.trainer, wanted)
        except CheckpointError:
            if fits:  # which raises the error itself, or starts from the beginning
                return
            raise
        path = checkpoint.parent.parent / "config.yaml"
        saved = read_yaml(path, str(path)) if path.is_file() else {}
        for part in ("data", "model") if fits else ("data",):
            self._compare(part, saved.get(part) or {})
        changed = {} if fits else self._model_of_run(checkpoint, saved.get("model"))
        if changed:
            self.config = self.parser.parse_object({"model": changed}, self.config)
            self.model = self.parser.instantiate(self.config)["model"]
            shown = ", ".join(f"{key}={value}" for key, value in _arguments(changed).items())
            self.trainer.print(f"model with {shown}, as in the run of the checkpoint")

    def _compare(self, part: str, saved: dict[str, Any]) -> None:
        """Print which settings differ from the checkpoint's run: with another split, its training samples may be
        validated now; and restored weights and optimizers keep their own settings."""
        now = self.config.get(part)  # None if it takes no arguments
        now = _arguments({} if now is None else now.as_dict())
        other = _changed(_arguments(saved), now)
        if other:
            had = ", ".join(f"{part}.{key}={value}" for key, value in other.items())
            has = ", ".join(str(now[key]) for key in other)
            kept = "; its optimizer keeps its own rate (--restore_lr changes it)"
            rate = part == "model" and not {"lr", "learning_rate"}.isdisjoint(other)
            rate = rate and self.config["restore_lr"] is None
            self.trainer.print(f"the run of the checkpoint had {had}; now {has}{kept * rate}")

    def _model_of_run(self, checkpoint: Path, saved: dict[str, Any] | None) -> dict[str, Any]:
        """The model's configuration with those arguments of the checkpoint's run that differ and are not given by
        an option; empty if there are none.

        Raises:
            ConfigError: if that run had a model of another class.
        """
        now = self.config["model"].as_dict()
        if saved is None:
            return {}
        if saved.get("class_path") != now.get("class_path"):
            raise ConfigError(
                f"{checkpoint} was saved by {saved.get('class_path', 'the model of the script')}, "
                f"not by {now.get('class_path', 'the model of the script')}; choose it with --model NAME."
            )
        other = _changed(_arguments(saved), _arguments(now))
        given = self.settings.sources.options
        changed = {key: value for key, value in other.items() if f"model.{key}" not in given}
        if "class_path" not in saved:
            return changed
        return changed and {**now, "init_args": {**now["init_args"], **changed}}

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Create the trainer, with the callbacks and loggers that are switched on."""
        trainer = self.config_init["trainer"]
        callbacks = [*_made(self.config_init, "callbacks"), *(trainer.get("callbacks") or [])]
        logger = _made(self.config_init, "loggers") if trainer.get("logger") is not False else False
        return super().instantiate_trainer(callbacks=callbacks, logger=logger, **kwargs)

    def run_command(self, started_in: Path) -> None:
        """Run the command, and report its results."""
        self._run_subcommand(self.command)
        if not self.trainer.is_global_zero:
            return
        if self.command == "fit":
            options = [f" --{part} {name}" for part, name in self.settings.chosen.items()]
            options += [f" {word}" for word in _options_of_next(self.settings.words, started_in)]
            report_fit(self.trainer, started_in, "".join(options))
        if self.command == "predict" and self.returned:
            save_predictions(self.trainer, self.returned, started_in)
            write_config(self.parser, self.config, Path(self.trainer.log_dir) / "config.yaml")


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model or data module, whether its class is named in the configuration or the script."""
    return config.get("init_args", config) or {}


def _changed(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The saved values of arguments that differ now."""
    return {key: value for key, value in saved.items() if key in now and now[key] != value}


def _files_first(words: list[str]) -> list[str]:
    """Move files first and `--print_config` last: options override files wherever they are written."""
    prints = "--print_config"
    said = sorted(options(words), key=lambda each: (each.flag not in CONFIG, each.flag == prints))
    return [word for each in said for word in each.words]


def _options_of_next(words: list[str], started_in: Path) -> list[str]:
    """The options that the next command needs, too: config files, the data, the loggers. Passwords are hidden, with a
    note after `#`, which a shell ignores."""
    parts = ("--data.", "--loggers.")
    said: list[str] = []
    for flag, value, words_of_it in options(words):
        if flag in CONFIG and os.path.isfile(value):
            said += [flag, shown_path(value, started_in)]
        elif flag.startswith(parts):
            said += words_of_it
    hidden = [hide_passwords(word) for word in said]
    return [*map(shlex.quote, hidden), *["# your password in place of ***"] * (hidden != said)]


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command, and the rest of the words."""
    if not words or words[0].startswith("-"):
        return "fit", words
    commands = [*SUBCOMMANDS, CHECK]
    if words[0] not in commands:
        near = did_you_mean(words[0], commands)
        raise ConfigError(f"unknown command {words[0]!r}: choose {', '.join(commands)}.{near}")
    return words[0], words[1:]


def _absolute_paths(words: list[str], started_in: Path) -> list[str]:
    """Make paths of configurations and checkpoints absolute, if the files exist."""
    fixed = []
    for word in words:
        flag, equals, name = word.rpartition("=")
        there = started_in / name
        is_file = name.endswith((".yaml", ".yml", ".ckpt")) and there.exists()
        fixed.append(f"{flag}{equals}{there}" if is_file else word)
    return fixed


def _made(config: Any, kind: str) -> list[Any]:
    group = config.get(kind) or {}
    return [item for item in vars(group).values() if item is not None] if group else []


@contextmanager
def _working_in(folder: Path) -> Iterator[Path]:
    """Make `folder` the working directory inside this block; yields the one before."""
    before = Path.cwd()
    sys.argv[0] = os.path.abspath(sys.argv[0])  # so that processes started later find the script
    os.chdir(folder if folder.is_dir() else before)
    try:
        yield before
    finally:
        os.chdir(before)
