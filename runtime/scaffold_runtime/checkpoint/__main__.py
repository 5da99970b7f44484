"""`python -m scaffold_runtime.checkpoint show|verify|diff|consolidate PATH`: checkpoints, without trusting them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from scaffold_runtime.checkpoint.engine import with_weights
from scaffold_runtime.checkpoint.io import read_checkpoint, write_checkpoint
from scaffold_runtime.compare import difference
from scaffold_runtime.errors import plain_errors

COMMANDS = {
    "show": "print what a checkpoint holds",
    "verify": "say whether a checkpoint is whole, and holds nothing but tensors and plain values",
    "diff": "name the first place where two checkpoints differ",
    "consolidate": "write a checkpoint in parts (the first path) as one file (the second)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all is well, 1 if files differ or one is bad, 2 for a wrong command line.

    Raises:
        SystemExit: if a file is bad.
    """
    parser = argparse.ArgumentParser(prog="python -m scaffold_runtime.checkpoint")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        two = name in ("diff", "consolidate")
        command.add_argument("file", type=Path, nargs=2 if two else 1)
    given = parser.parse_args(arguments)
    with plain_errors():
        if given.command == "consolidate":
            return _consolidate(*given.file)
        checkpoints = [read_checkpoint(file) for file in given.file]
    if given.command == "diff":
        one, other = checkpoints
        found = difference(one, other)
        _say(f"They differ: {found}." if found else "They are identical.")
        if not found:
            return 0
        same = [key for key in one if key in other and not difference(one[key], other[key])]
        if same:
            _say(f"The same in both: {', '.join(same)}.")
        return 1
    if given.command == "verify":
        _say(f"{given.file[0]} is whole: step {checkpoints[0].get('global_step')}.")
    else:
        _say("\n".join(_tree(checkpoints[0])))
    return 0


def _consolidate(source: Path, target: Path) -> int:
    checkpoint = with_weights(read_checkpoint(source))
    write_checkpoint(checkpoint, target)
    weights_only = "optimizer_states" not in checkpoint
    _say(f"{target} holds {'the weights' if weights_only else 'all'} of {source}.")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


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
