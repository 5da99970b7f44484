"""Explaining what is wrong with a command line or a configuration, in one to three lines."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scaffold_runtime.errors import did_you_mean

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from scaffold_runtime.cli.sources import Sources


def explain(message: str, parser: ArgumentParser) -> str:
    """Turn an error message of jsonargparse into one that says what to change."""
    explained = _beside_class(message, parser) or _no_class_yet(message)
    message = _main_reason(message)
    readers = (_unrecognized, _no_command, _unaccepted, _bad_class, _missing, _bad_value, _short)
    for read in readers:
        explained = explained or read(message, parser)
    return explained or message


def _main_reason(message: str) -> str:
    """Of the reasons why each alternative of a type failed, keep the one about a class that was given."""
    pattern = r"^    - Problem with given class_path.*?(?=^    - |^  Given)"
    reason = re.search(pattern, message, re.MULTILINE | re.DOTALL)
    return message[: reason.start()] + reason[0] if reason else message


def _no_command(message: str, parser: ArgumentParser) -> str:
    match = re.match(r"argument subcommand: invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if not match:
        return ""
    known = [name.strip(" '") for name in match[2].split(",")]
    near = did_you_mean(match[1], known)
    return f"unknown command {match[1]!r}: choose {', '.join(known)}.{near}"


def _unrecognized(message: str, parser: ArgumentParser) -> str:
    match = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if not match:
        return ""
    name = next((word for word in match[1].split() if word.startswith("-")), match[1].split()[0])
    name = name.partition("=")[0]
    options = _options(parser)
    ends = [option for option in options if option.rpartition(".")[2] == name.lstrip("-")]
    near = f" Did you mean `{ends[0]}`?" if ends else did_you_mean(name, options)
    return f"unknown option {name}.{near}"


def _unaccepted(message: str, parser: ArgumentParser) -> str:
    """A key that a group, a class or the whole parser does not know."""
    group = re.search(r"(Group|Subcommand) '([^']*)' does not accept option '([^']*)'", message)
    option = re.search(r"Option '([^']*)' is not accepted", message)
    if group:
        key = f"{group[2]}.{group[3]}" if group[1] == "Group" else group[3]
    elif option:
        key = ".".join([*_path(message), option[1]])
    else:
        return ""
    known = [option.lstrip("-") for option in _options(parser)]
    if key in known:
        return (
            f"{key}{_source(parser, key)} belongs to a command: give the file after the command "
            "(`fit --config FILE`), or put its keys under `fit:`."
        )
    parent = key.rpartition(".")[0]
    class_path = next(reversed(_class_paths(message)), "")
    near = did_you_mean(key, [f"{parent}.{name}" for name in _arguments(class_path)])
    near = near or did_you_mean(key, known)
    owner = f"{class_path.rpartition('.')[2]} does not take it." if class_path else ""
    return f"unknown key {key}{_source(parser, key)}.{' ' if owner else ''}{owner}{near}"


def _bad_class(message: str, parser: ArgumentParser) -> str:
    """A class path that cannot be imported."""
    absent = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    no_module = re.search(r"No module named '([\w.]+)'", message)
    unknown = re.search(
        r"(?:Expected a dot import path string|Unexpected import path format): (\S+)", message
    )
    wrong = re.search(r"(Import path \S+ (?:does|is).*)", message)
    key = ".".join(_path(message))
    where = f"{key}{_source(parser, key)}"
    given = re.findall(r"(?:class_path'?:? |Given value: )'?([\w.]+\.\w+)", message)
    if why := next(filter(None, map(_unimportable, given)), ""):
        return f"{where}: {why}"
    if absent:
        near = did_you_mean(absent[2], _names(absent[1]))
        return f"{where}: {absent[1]} has no `{absent[2]}`.{near}"
    if no_module and re.search("given class_path|expects a function or a callable class", message):
        return f"{where}: there is no module `{no_module[1]}`."
    if unknown:
        near = did_you_mean(unknown[1].rpartition(".")[2], _names(*WHERE_CLASSES_ARE))
        return (
            f"{where}: {unknown[1]} is not the path of a class, such as package.module.Class.{near}"
        )
    return f"{where}: {wrong[1]}" if wrong else ""


def _unimportable(class_path: str) -> str:
    """Why importing the module of a class fails, if the module exists."""
    module = class_path.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return ""
    except Exception as error:  # user code may raise anything
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _beside_class(message: str, parser: ArgumentParser) -> str:
    """An argument of a class written beside `class_path`, instead of below `init_args`."""
    given = re.search(r"(?:Got|Given) value: ([\[{].*[\]}])", _tail(message))
    try:
        values = ast.literal_eval(given[1]) if given else []
    except (SyntaxError, ValueError):  # it has values that are not plain
        return ""
    for value in values if isinstance(values, list) else [values]:
        named = isinstance(value, dict) and "class_path" in value
        beside = value.keys() - {"class_path", "init_args", "dict_kwargs"} if named else ()
        if beside:
            key = f"{'.'.join(_path(message))}.{min(beside)}"
            owner = value["class_path"].rpartition(".")[2]
            return f"unknown key {key}{_source(parser, key)}. Arguments of {owner} stand below init_args."
    return ""


def _no_class_yet(message: str) -> str:
    """An argument on the command line for an object whose class was not chosen yet."""
    argument = re.search(r"Given value: NestedArg\(key='(\w+)'", message)
    taken = re.search(r"Subtypes: (.*)", message)
    tried = [path.rpartition(".")[2] for path in _class_paths(message)]
    if not argument or not taken or not all(re.search(rf"\b{name}\b", taken[1]) for name in tried):
        return ""
    key = ".".join(_path(message))
    option = f"{key}.{argument[1]}"
    return f"{option}: name a class that takes it first, as in --{key} CLASS --{option} VALUE."


def _missing(message: str, parser: ArgumentParser) -> str:
    names = re.search(r"the following arguments are required: (.*)", message)
    if names is None:
        return ""
    key = ".".join(_path(message))
    owner = f" {key}{_source(parser, key)}" if key else ""
    return f"missing{owner}: {names[1]} must be given."


def _bad_value(message: str, parser: ArgumentParser) -> str:
    tail, key = _tail(message), ".".join(_path(message))
    types = re.search(r"Subtypes: (.*)", tail)
    given = re.search(r"Given value: (.*)", tail) if types else None
    types = types or re.search(r"Expected (?:an? )?(.*?)\.+ Got value", tail)
    given = given or re.search(r"(?:Got|Given) value: (.*)", tail)
    if not given or not key:
        return ""
    wanted = f"expected {_type_names(types[1])}, " if types else ""
    return f"{key}{_source(parser, key)}: {wanted}got {given[1]!r}"


def _short(message: str, parser: ArgumentParser) -> str:
    """Any other message: its first line, and its last two, which say why."""
    unloadable = re.search(
        r"(?:Unable to load config|File does not exist:) ['\"](.*?)['\"]", message
    )
    if unloadable and not Path(unloadable[1]).is_file():
        return f"there is no file {unloadable[1]} (--{'.'.join(_path(message)[:1])})."
    message = re.sub(r'Parser key "([\w.]+)":', r"\1:", message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n  ".join(lines if len(lines) <= 3 else [lines[0], *lines[-2:]])


def _path(message: str) -> list[str]:
    """The key that a message is about: the parser's key, and those of nested classes."""
    return re.findall(r'Parser key "([\w.]+)"', message)


def _tail(message: str) -> str:
    return message.rpartition('Parser key "')[2]


def _type_names(types: str) -> str:
    names = re.sub(r"<class '([\w.]+)'>", r"\1", types).replace("NoneType", "null")
    names = re.sub(r"(?<!['\w.])(?:\w+\.)+(\w+)", r"\1", names)
    names = names[1:-1] if names.startswith("[") else names
    names = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace(", ", " or "), names)
    inside = r"[^\[]*(?:\[[^\[\]]*\][^\[]*)*\]"  # what follows a comma within brackets
    return " or ".join(re.split(rf", (?!{inside})", names))


def _class_paths(message: str) -> list[str]:
    return re.findall(r"Problem with given class_path '([\w.]+)'", message)


def _arguments(class_path: str) -> Iterable[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return ()


WHERE_CLASSES_ARE = (
    "scaffold_runtime.callbacks",
    "scaffold_runtime.loggers",
    "torch.optim",
    "torch.optim.lr_scheduler",
)


def _names(*modules: str) -> list[str]:
    imported = [importlib.import_module(module) for module in modules]
    return [name for module in imported for name in getattr(module, "__all__", dir(module))]


def _options(parser: ArgumentParser) -> list[str]:
    subparsers = getattr(parser._subcommands_action, "_name_parser_map", {}).values()
    actions = [action for used in (parser, *subparsers) for action in used._actions]
    options = [option for action in actions for option in action.option_strings]
    return [option for option in options if not option.endswith(".help")]


def _source(parser: ArgumentParser, key: str) -> str:
    sources: Sources | None = getattr(parser, "sources", None)
    return sources.of(key) if sources else ""
