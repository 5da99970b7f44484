"""The pristine copy of every generated file, kept in `.scaffold/lock.json`.

It is one opaque file, not a tree of copies: formatters, linters and grep would find those.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from scaffold.errors import ScaffoldError
from scaffold.files import File, Tree

# managed: merged with every change; ejected: the user's own; deleted: by the user, not restored;
# kept: no longer generated, but edited by the user, so it stays
State = Literal["managed", "ejected", "deleted", "kept"]
LARGEST = 16 * 1024 * 1024


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


def from_json(data: bytes) -> tuple[Lock, dict[str, str]]:
    """The valid entries, and the recorded hash of each damaged one, since the file may have been edited."""
    try:
        files = json.loads(data)["files"]
        entries = {path: _unpacked(path, packed) for path, packed in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ScaffoldError(
            "`.scaffold/lock.json` cannot be read, perhaps after a merge or an edit by hand\n"
            "rebuild it with `scaffold doctor --rebuild`"
        ) from None
    good = {path: entry for path, entry in entries.items() if entry}
    bad = [path for path in entries if path not in good and is_safe(path)]
    return good, {path: _claim(files[path]) for path in bad}


def is_safe(path: str) -> bool:
    """Whether it is below the root, outside `.scaffold` and `.git`, and valid on every system."""
    parts = path.split("/")
    odd = {"", ".", ".."} & set(parts) or "\\" in path or ":" in path or "\0" in path
    return not odd and parts[0].lower() not in (".scaffold", ".git")


def _claim(packed: object) -> str:
    return str(packed.get("sha256", "")) if isinstance(packed, dict) else ""


def _packed(entry: Entry) -> str:
    file = entry.file
    data = base64.b64encode(zlib.compress(file.data, 9)).decode()
    mode = f"{file.mode:o}"
    return json.dumps({"mode": mode, "state": entry.state, "sha256": file.hash, "data": data})


def _unpacked(path: str, packed: Mapping[str, str]) -> Entry | None:
    """None if the path is unsafe, or the content does not match its hash."""
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(packed["data"]), LARGEST)
        file = File(data, packed["mode"] == "755")
        state = packed["state"]
    except (ValueError, KeyError, TypeError, zlib.error):
        return None
    sound = inflate.eof and file.hash == packed.get("sha256") and state in get_args(State)
    return Entry(file, cast(State, state)) if sound and is_safe(path) else None
