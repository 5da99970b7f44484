"""Render the default project of each task into examples/: `python tools/examples.py`.

With --check, only list the files that differ; the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from scaffold.answers import command, default_answers
from scaffold.catalogue import packaged
from scaffold.files import Tree, read_tree, write_tree
from scaffold.render import render

EXAMPLES = Path(__file__).parent.parent / "examples"


def rendered(task: str) -> Tree:
    """The files of `scaffold new TASK-example --task TASK --defaults`, without `.scaffold/`."""
    catalogue = packaged()
    features = catalogue.defaults(catalogue.task(task))
    answers = default_answers(f"{task}-example", catalogue)
    answers = replace(answers, task=task, features=features)
    answers = replace(answers, command=command(answers))
    return render(answers, catalogue)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    different = []
    for task in sorted(packaged().tasks):
        folder, tree = EXAMPLES / task, rendered(task)
        if check:
            kept = kept_files(folder)
            paths = sorted(kept.keys() | tree.keys())
            different += [f"{task}/{path}" for path in paths if kept.get(path) != tree.get(path)]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            write_tree(tree, folder)
    if different:
        print("\n".join([*different, "differ from the templates: run `python tools/examples.py`"]))
    return bool(different)


def kept_files(folder: Path) -> Tree:
    """The files of an example, without those that using it creates."""
    left = ("__pycache__", "runs", "data", ".pytest_cache", ".ruff_cache", ".mypy_cache")
    files = read_tree(folder) if folder.is_dir() else {}
    return {path: file for path, file in files.items() if not {*left} & {*path.split("/")[:-1]}}


if __name__ == "__main__":
    sys.exit(main())
