"""`python -m scaffold_runtime.checkpoint show|verify|diff|consolidate PATH`: inspect checkpoints safely."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor

from scaffold_runtime.checkpoint.engine import with_weights
from scaffold_runtime.checkpoint.io import read_checkpoint, write_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.errors import plain_errors


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all is well, 1 if files differ or one is bad, 2 for a wrong command line.

    Raises:
        SystemExit: if a file is bad.
    """
    parser = argparse.ArgumentParser(prog="python -m scaffold_runtime.checkpoint")
    commands = parser.add_subparsers(required=True)
    for run in (show, verify, diff, consolidate):
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.add_argument("file", type=Path, nargs=len(signature(run).parameters))
        command.set_defaults(run=run)
    given = parser.parse_args(arguments)
    with plain_errors():
        return int(given.run(*given.file))


def show(file: Path) -> int:
    """print what a checkpoint holds"""
    return _say(*_tree(read_checkpoint(file)))


def verify(file: Path) -> int:
    """check that a checkpoint is undamaged, and holds only tensors and plain values"""
    return _say(f"{file} is whole: step {read_checkpoint(file).get('global_step')}.")


def diff(first: Path, second: Path) -> int:
    """show the first difference between two checkpoints"""
    one, other = read_checkpoint(first), read_checkpoint(second)
    found = difference(one, other)
    if found is None:
        return _say("They are identical.")
    _say(f"They differ: {found}.")
    same = [key for key in one if key in other and not difference(one[key], other[key])]
    if same:
        _say(f"The same in both: {', '.join(same)}.")
    return 1


def consolidate(source: Path, target: Path) -> int:
    """write a sharded checkpoint (the first path) as one file (the second)"""
    checkpoint = with_weights(read_checkpoint(source))
    write_checkpoint(checkpoint, target)
    weights_only = "optimizer_states" not in checkpoint
    return _say(f"{target} holds {'the weights' if weights_only else 'all'} of {source}.")


def _say(*lines: str) -> int:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _tree(value: dict[Any, Any], indent: str = "") -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, Tensor):
            kind = str(item.dtype).removeprefix("torch.")
            yield f"{indent}{key}: {kind} {tuple(item.shape)}"
        elif isinstance(item, (list, tuple)) and any(isinstance(i, (dict, Tensor)) for i in item):
            yield f"{indent}{key}:"
            yield from _tree(dict(enumerate(item)), indent + "  ")
        elif isinstance(item, dict) and item:
            yield f"{indent}{key}:"
            yield from _tree(item, indent + "  ")
        else:
            yield f"{indent}{key}: {item!r}"


if __name__ == "__main__":
    sys.exit(main())
