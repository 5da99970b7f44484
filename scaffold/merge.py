"""Three-way merge of one file, on bytes: the changes that the user and the templates made to the base."""

import ast
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from scaffold.git import git
from scaffold.length import formatted, meaning

BOM = b"\xef\xbb\xbf"
BLANK, SPACED = re.compile(rb"\n{2,}"), (".yaml", ".yml", ".toml")  # where blank lines mean nothing
STEPS, INDENT = re.compile(rb"(?m)^(?: {4})+"), re.compile(rb":\n([ \t]+)\S")  # black's; any
OPEN, MIDDLE, EQUALS, CLOSE = b"<<<<<<< mine", b"||||||| before", b"=======", b">>>>>>> scaffold"


@dataclass(frozen=True)
class Merged:
    data: bytes
    conflicts: int
    note: str = ""


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, as the runtime does."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        if len({str(key.value) for key, _ in node.value}) < len(node.value):
            raise ValueError("a key occurs twice")
        return node


def is_binary(data: bytes) -> bool:
    return b"\0" in data


def has_markers(data: bytes) -> bool:
    """Whether it has conflict markers of ours; `<<<<<<<` alone, as in a user's text, does not count."""
    return any(line.rstrip() in (OPEN, MIDDLE, CLOSE) for line in data.splitlines())


def has_git_markers(data: bytes) -> bool:
    return b"\n<<<<<<< " in b"\n" + data


def is_same_text(path: str, mine: bytes, other: bytes) -> bool:
    """Whether they differ at most in line ends, BOM, final newline and the formatting of Python."""
    if mine == other or is_binary(mine) or is_binary(other):
        return mine == other
    return unedited(path, mine, other) == _normal(mine)


def are_crlf(files: Iterable[bytes]) -> bool:
    """Whether all text files have CRLF line ends, as in a checkout on Windows."""
    texts = [data for data in files if b"\n" in data and not is_binary(data)]
    return bool(texts) and all(map(_is_crlf, texts))


def in_crlf(data: bytes) -> bytes:
    return data if is_binary(data) else _normal(data).replace(b"\n", b"\r\n")


def merge(path: str, base: bytes, mine: bytes, template: bytes) -> Merged:
    """The merge, with the line ends, BOM and final newline of `mine`; a result that does not parse is a conflict."""
    plain = [_normal(data) for data in (base, mine, template)]
    merged = _merged(*plain)
    if merged.conflicts and Path(path).suffix in SPACED:
        dense = [BLANK.sub(b"\n", data) for data in plain]
        if dense[1] == plain[1]:  # `mine` has no blank lines
            plain, merged = dense, _merged(*dense)
        elif dense[1] == dense[0]:  # only blank lines were changed in `mine`
            merged = Merged(plain[2], 0)
    if merged.conflicts and path.endswith(".py"):
        styled = unedited(path, plain[1], plain[0])
        again = _merged(styled, plain[1], _restyled(plain[0], styled, plain[2]) or plain[2])
        merged = min(merged, again, key=lambda each: (each.conflicts, len(each.data)))
    if not merged.conflicts and parses(path, mine) and not parses(path, merged.data):
        marked = _marked(*(_lines(data) for data in plain))
        merged = Merged(marked, 1, "both changed it, and the merged result does not parse")
    return replace(merged, data=in_style_of(mine, merged.data))


def unedited(path: str, mine: bytes, base: bytes) -> bytes:
    """The generated file `base` in the formatting of `mine`: that is `mine` without the user's edits."""
    plain, old = _normal(mine), _normal(base)
    if not path.endswith(".py") or None in (meant := [meaning(plain), meaning(old)]):
        return old
    if meant[0] == meant[1]:
        return plain
    ours, theirs = (formatted(data, commas=False) for data in (plain, old))
    return _restyled(ours, plain, theirs) or old


def _restyled(base: bytes, styled: bytes, new: bytes) -> bytes:
    """`new` in the formatting of `styled`, a reformatted `base`; empty if the result does not mean `new`."""
    found = INDENT.search(styled)
    step = found[1] if found else b" " * 4
    like = [STEPS.sub(lambda line: len(line[0]) // 4 * step, data) for data in (base, new)]
    done = diff3(like[0], styled, like[1], favour=True).data
    return done if meaning(done) == meaning(new) else b""


def parses(path: str, data: bytes) -> bool:
    return not mistake(path, data)


def mistake(path: str, data: bytes) -> str:
    """Why a file of this name does not parse, in one line; empty if it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _parse(Path(path).suffix, data)
    except Exception as error:  # each parser has its own errors, and RecursionError is possible
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _parse(suffix: str, data: bytes) -> None:
    if suffix == ".py":
        ast.parse(data)
    elif suffix in (".yaml", ".yml"):
        yaml.load(data, Loader=_Loader)
    elif suffix == ".json":
        json.loads(data)
    elif suffix == ".toml":
        _parse_toml(data.decode())


def _parse_toml(text: str) -> None:
    if sys.version_info >= (3, 11):
        import tomllib

        tomllib.loads(text)


def diff3(base: bytes, mine: bytes, template: bytes, *, favour: bool = False) -> Merged:
    """The classic algorithm: split at the lines that all three share; with `favour` the template wins."""
    texts = [_lines(data) for data in (base, mine, template)]
    done, conflicts, at = [], 0, (0, 0, 0)
    for b, m, t, length in _shared(*texts):
        ours = [text[start:end] for text, start, end in zip(texts, at, (b, m, t), strict=True)]
        old, left, right = (b"".join(lines) for lines in ours)
        if right == old:
            done.append(left)
        elif favour or left in (old, right):
            done.append(right)
        else:
            done.append(_marked(*ours))
            conflicts += 1
        done += texts[0][b : b + length]
        at = (b + length, m + length, t + length)
    return Merged(b"".join(done), conflicts)


def _shared(
    base: list[bytes], mine: list[bytes], template: list[bytes]
) -> Iterator[tuple[int, int, int, int]]:
    """Runs of lines that all three share: the three starts and the length; the last run is empty."""
    to_mine, to_template = _matches(base, mine), _matches(base, template)
    start = 0
    while start < len(base):
        m, t = to_mine.get(start), to_template.get(start)
        if m is None or t is None:
            start += 1
            continue
        length = 1
        while (
            to_mine.get(start + length) == m + length
            and to_template.get(start + length) == t + length
        ):
            length += 1
        yield start, m, t, length
        start += length
    yield len(base), len(mine), len(template), 0


def _matches(base: list[bytes], other: list[bytes]) -> dict[int, int]:
    blocks = SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}


def _marked(base: list[bytes], mine: list[bytes], template: list[bytes]) -> bytes:
    """A conflict as git writes it, with the base in the middle."""
    sides = ((OPEN, mine), (MIDDLE, base), (EQUALS, template))
    return b"".join(head + b"\n" + _ended(b"".join(lines)) for head, lines in sides) + CLOSE + b"\n"


def _merged(*texts: bytes) -> Merged:
    """Merge from the top, else from the bottom: insertions beside an edit may conflict in one direction only."""
    merged = _by_git(*texts) or diff3(*texts)
    if not merged.conflicts:
        return merged
    reverse = [_reversed(text) for text in texts]
    again = _by_git(*reverse) or diff3(*reverse)
    return merged if again.conflicts else Merged(_reversed(again.data), 0)


def _reversed(text: bytes) -> bytes:
    return b"".join(reversed(_lines(text)))


def _by_git(base: bytes, mine: bytes, template: bytes) -> Merged | None:
    with TemporaryDirectory(prefix="scaffold-") as scratch:
        names = ("mine", "before", "scaffold")
        for name, data in zip(names, (mine, base, template), strict=True):
            Path(scratch, name).write_bytes(data)
        labels = [word for name in names for word in ("-L", name)]
        done = git("merge-file", "-p", "--diff3", *labels, *names, inside=Path(scratch))
    if done is None or not 0 <= done.returncode < 128:  # beyond is an error, not a count
        return None
    return Merged(done.stdout, done.returncode)


def _normal(data: bytes) -> bytes:
    text = data.removeprefix(BOM)
    return _ended(text.replace(b"\r\n", b"\n") if _is_crlf(text) else text)


def in_style_of(mine: bytes, data: bytes) -> bytes:
    if not mine.endswith(b"\n") and not has_markers(data[-len(CLOSE) - 1 :]):
        data = data.removesuffix(b"\n")
    if _is_crlf(mine):
        data = data.replace(b"\n", b"\r\n")
    return (BOM if mine.startswith(BOM) else b"") + data


def _is_crlf(data: bytes) -> bool:
    """Whether every line ends in CRLF, so that LF and back loses nothing."""
    return b"\r\n" in data and data.count(b"\n") == data.count(b"\r\n")


def _ended(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"


def _lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []
