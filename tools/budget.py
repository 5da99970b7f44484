"""Source lines per module and lengths of functions: `make budget`. Fails where a part is over its budget.

A source line holds code: comments, docstrings and blank lines are not counted.
"""

from __future__ import annotations

import ast
import functools
import io
import statistics
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
# By package and part, a folder or "files" for what lies beside them. Ratchets: lower them when a part shrinks;
# raise them only with a reason.
BUDGETS = {
    "runtime/scaffold_runtime": {
        "files": 5361,
        "callbacks": 2586,
        "strategies": 2084,
        "cli": 1358,
        "checkpoint": 1294,
        "loggers": 770,
        "trainer": 758,
        "loops": 598,
        "profilers": 432,
        "tuner": 86,
        "names": 356,  # of Lightning: core, demos, plugins, utilities
    },
    "scaffold": {"files": 3190},
}
NAMES = ("core", "demos", "plugins", "utilities")
FILE_GOAL, FUNCTION_GOAL = 250, 50
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(tree: ast.AST) -> set[int]:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            expression = node.body[0]
            lines.update(range(expression.lineno, (expression.end_lineno or 0) + 1))
    return lines


def source_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines: set[int] = set()
    for token in tokens:
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(text))


def functions(text: str, lines: set[int]) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found.append((node.name, len(lines.intersection(own))))
    return found


def part_of(file: Path) -> str:
    """The part of a package that `file`, a path in it, belongs to."""
    part = file.parts[0] if len(file.parts) > 1 else "files"
    return "names" if part in NAMES else part


@functools.cache
def used(package: str) -> Counter[str]:
    """Source lines of each part."""
    lines: Counter[str] = Counter()
    for file in (ROOT / package).rglob("*.py"):
        lines[part_of(file.relative_to(ROOT / package))] += len(
            source_lines(file.read_text(encoding="utf-8"))
        )
    return lines


def over(package: str) -> list[str]:
    """The parts that have more lines than they may have, or no budget."""
    budgets = BUDGETS[package]
    return [part for part, lines in used(package).items() if lines > budgets.get(part, 0)]


def report(package: str) -> None:
    lengths: list[int] = []
    print(f"{package}\n  lines  functions  median  longest")
    for file in sorted((ROOT / package).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        lines = source_lines(text)
        inside = functions(text, lines)
        lengths += [length for _, length in inside]
        name, longest = max(inside, key=lambda pair: pair[1], default=("", 0))
        median = statistics.median([length for _, length in inside]) if inside else 0
        mark = " long" if len(lines) > FILE_GOAL else ""
        mark += f" ({name})" if longest > FUNCTION_GOAL else ""
        relative = file.relative_to(ROOT / package)
        print(f"  {len(lines):5}  {len(inside):9}  {median:6.0f}  {longest:7}  {relative}{mark}")
    for part, count in used(package).most_common():
        budget = BUDGETS[package].get(part, 0)
        print(f"  {count:5} of {budget:5}  {part}")
    print(
        f"  {used(package).total():5} of {sum(BUDGETS[package].values()):5}  in all; {len(lengths)} functions, "
        f"median {statistics.median(lengths):.0f}, longest {max(lengths)}\n"
    )


if __name__ == "__main__":
    for package in BUDGETS:
        if "--quiet" not in sys.argv:
            report(package)
        for part in over(package):
            lines, budget = used(package)[part], BUDGETS[package].get(part, 0)
            print(
                f"{package}: {part} has {lines} source lines, {budget} are its budget (tools/budget.py)"
            )
    sys.exit(any(map(over, BUDGETS)))
