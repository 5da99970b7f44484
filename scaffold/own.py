"""A team's own Copier template, from a folder or a git URL: `--template SOURCE[@REF]`.

Its tasks, migrations and extensions are code, and never run: they are removed from a copy of the
template before Copier sees it, and the user is told.
"""

import atexit
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from traceback import extract_tb
from typing import Any

import yaml

from scaffold.errors import CancelledError, ScaffoldError
from scaffold.files import File, Tree, read_tree
from scaffold.git import git
from scaffold.lock import is_safe
from scaffold.names import one_line, public

RUNS_CODE = ("_tasks", "_migrations", "_jinja_extensions", "_preserve_symlinks", "_external_data")
PROTOCOLS = "file:git:http:https:ssh"
NEVER_ASK = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
MOST_NODES = 20_000


@dataclass(frozen=True)
class Fetched:
    """A copy of a template, without the parts that would run code."""

    folder: Path
    commit: str
    ignored: tuple[str, ...]
    questions: tuple[str, ...]


def answered(source: str, given: Mapping[str, Any], *, ask: bool) -> dict[str, Any]:
    """Answers to the template's questions: `given`, from the terminal, or its defaults."""
    fetched = fetch(source)
    if unknown := sorted({*given} - {*fetched.questions}):
        raise ScaffoldError(f"the template does not ask for {', '.join(map(one_line, unknown))}")
    with TemporaryDirectory(prefix="scaffold-") as scratch:
        return _copy(fetched, Path(scratch, "out"), given, ask)


def render_own(source: str, answers: Mapping[str, Any]) -> Tree:
    fetched = fetch(source)
    with TemporaryDirectory(prefix="scaffold-") as scratch:
        _copy(fetched, Path(scratch, "out"), answers, ask=False)
        tree = read_tree(Path(scratch, "out"))
    # Copier's answers file names our temporary copy: write the source instead
    ours, theirs = str(fetched.folder).encode(), public(split(source)[0]).encode()
    tree = {
        path: File(file.data.replace(ours, theirs), file.executable) for path, file in tree.items()
    }
    if unsafe := [path for path in tree if not is_safe(path)]:
        raise ScaffoldError(
            f"the template would write `{one_line(unsafe[0])}`, which is not allowed"
        )
    return tree


@cache
def fetch(source: str) -> Fetched:
    """Copy or clone a template, and remove the parts that would run code."""
    scratch = mkdtemp(prefix="scaffold-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)  # several steps read it until then
    folder = Path(scratch, "template")
    address, ref = split(source)
    if Path(address).is_dir() and not ref:
        shutil.copytree(address, folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        commit = ""
    else:
        commit = _clone(address, ref, folder)
    path, config = _config(folder)
    ignored = tuple(key for key in RUNS_CODE if config.pop(key, None))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    questions = tuple(key for key in config if not key.startswith("_"))
    return Fetched(folder, commit, ignored, questions)


def pinned(source: str) -> str:
    """The source, with a folder as an absolute path, so that `update` works from anywhere."""
    address, ref = split(source)
    folder = Path(os.path.expanduser(address))
    return f"{folder.resolve()}{f'@{ref}' if ref else ''}" if folder.is_dir() else source


def split(source: str) -> tuple[str, str]:
    """Split `address@ref`; the `@` of `git@host:path` belongs to the address."""
    address, at, ref = source.rpartition("@")
    is_place = "/" in address or Path(address).is_dir()
    if at and address and is_place and not {"/", ":"} & set(ref):
        return address, ref
    return source, ""


def _clone(address: str, ref: str, folder: Path) -> str:
    if address.startswith("-") or ref.startswith("-"):
        raise ScaffoldError(f"`{one_line(address)}` is not the address of a template")
    words = ["clone", "--quiet", "--no-checkout", "--", address, str(folder)]
    done = git(*words, inside=Path.cwd(), env={"GIT_ALLOW_PROTOCOL": PROTOCOLS, **NEVER_ASK})
    if done is None:
        raise ScaffoldError("a template from an address needs git, which is not installed")
    checked = (
        git("checkout", "--quiet", "--detach", ref or "HEAD", inside=folder)
        if folder.is_dir()
        else done
    )
    if done.returncode or checked is None or checked.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = [line for line in said if not line.lower().startswith("warning")]
        if not done.returncode:
            reason = [f"it has no tag, branch or commit {one_line(ref or 'HEAD')}"]
        raise ScaffoldError(
            f"cannot fetch the template {one_line(public(address))}{f' at {one_line(ref)}' if ref else ''}\n"
            f"{one_line(public(reason[0])) if reason else 'git failed'}"
        )
    head = git("rev-parse", "HEAD", inside=folder)
    shutil.rmtree(folder / ".git")
    return head.stdout.decode().strip() if head else ""


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in ("copier.yml", "copier.yaml"):
        path = folder / name
        if path.is_file() and not path.is_symlink():
            return path, _checked(path.read_bytes(), name)
    raise ScaffoldError("there is no `copier.yml` in the template; it must be a Copier template")


def _checked(text: bytes, name: str) -> dict[str, Any]:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None and _size(node, {}) > MOST_NODES:
            raise ScaffoldError(f"the template's `{name}` is too large with its aliases expanded")
        data = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ScaffoldError(
            f"the template's `{name}` cannot be used: {one_line(str(error))}"
        ) from None
    if not isinstance(data, dict):
        raise ScaffoldError(f"the template's `{name}` is not a mapping")
    return {str(key): value for key, value in data.items()}


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of nodes with all aliases expanded, counted without expanding them."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES  # a node inside itself has no end
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _copy(fetched: Fetched, out: Path, data: Mapping[str, Any], ask: bool) -> dict[str, Any]:
    from copier import Settings, run_copy
    from copier.errors import CopierError
    from jinja2 import TemplateError

    try:
        worker = run_copy(
            str(fetched.folder),
            out,
            dict(data),
            settings=Settings(),
            defaults=not ask,
            skip_tasks=True,
            quiet=True,
        )
    except KeyboardInterrupt:
        raise CancelledError("cancelled, nothing was written") from None
    except (CopierError, TemplateError, ValueError, TypeError, OSError) as error:
        where = place_in(fetched.folder, error)
        raise ScaffoldError(f"cannot render the template{where}: {one_line(str(error))}") from None
    secret = set(worker.template.secret_questions)
    said = worker.answers.user
    return {key: said[key] for key in fetched.questions if key in said and key not in secret}


def place_in(folder: Path, error: Exception) -> str:
    """The template line that Jinja could not render, as text for an error; empty if unknown."""
    for call in reversed(extract_tb(error.__traceback__)):
        if Path(call.filename).is_relative_to(folder):
            return f", `{Path(call.filename).relative_to(folder)}`, line {call.lineno}"
    return ""
