"""The pristine copy of every generated file, kept in `.scaffold/lock.json`.

It is one opaque file, not a tree of copies, because formatters, linters and grep would find those.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scaffold.files import File, Tree

State = Literal["managed", "ejected", "deleted"]


@dataclass(frozen=True)
class Entry:
    file: File
    state: State = "managed"


Lock = Mapping[str, Entry]


def locked(tree: Tree) -> Lock:
    return {path: Entry(file) for path, file in tree.items()}


def to_json(lock: Lock, version: str) -> bytes:
    """One line per file, so that a diff of the lock stays readable."""
    lines = [f"  {json.dumps(path)}: {_packed(lock[path])}" for path in sorted(lock)]
    files = ",\n".join(lines)
    return f'{{"schema": 1, "version": "{version}", "files": {{\n{files}\n}}}}\n'.encode()


def _packed(entry: Entry) -> str:
    file = entry.file
    data = base64.b64encode(zlib.compress(file.data, 9)).decode()
    mode = f"{file.mode:o}"
    return json.dumps({"mode": mode, "state": entry.state, "sha256": file.hash, "data": data})
