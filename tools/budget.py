"""Source lines per module and lengths of functions: `make budget`.

A source line holds code: comments, docstrings and blank lines are not counted.
"""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {"runtime/scaffold_runtime": 4500, "scaffold": 2000}
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


def report(package: str, goal: int) -> None:
    total = 0
    lengths: list[int] = []
    print(f"{package}\n  lines  functions  median  longest")
    for file in sorted((ROOT / package).rglob("*.py")):
        text = file.read_text()
        lines = source_lines(text)
        inside = functions(text, lines)
        total += len(lines)
        lengths += [length for _, length in inside]
        name, longest = max(inside, key=lambda pair: pair[1], default=("", 0))
        median = statistics.median([length for _, length in inside]) if inside else 0
        mark = " over" if len(lines) > FILE_GOAL else ""
        mark += f" ({name})" if longest > FUNCTION_GOAL else ""
        relative = file.relative_to(ROOT / package)
        print(f"  {len(lines):5}  {len(inside):9}  {median:6.0f}  {longest:7}  {relative}{mark}")
    print(
        f"  {total:5}  of {goal}; {len(lengths)} functions, "
        f"median {statistics.median(lengths):.0f}, longest {max(lengths)}\n"
    )


if __name__ == "__main__":
    for package, goal in PACKAGES.items():
        report(package, goal)
