"""The output for the user: short lines, with the same text in a pipe and without colour."""

import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaffold import __version__
from scaffold.answers import Answers
from scaffold.errors import CancelledError, ConflictError
from scaffold.files import Tree
from scaffold.git import out_of_place
from scaffold.names import public

if TYPE_CHECKING:
    from scaffold.doctor import Finding
    from scaffold.look import Difference, Feature
    from scaffold.plan import Verb
    from scaffold.transition import Proposal


MOST_LINES = 20  # per folder; more files are summed up in one line
COLOURS = {  # for lines of a diff, verbs, findings and states
    "+": "green",
    "-": "red",
    "@": "cyan",
    **dict.fromkeys(("create", "update", "merge", "move", "ok", "on", "yours"), "green"),
    **dict.fromkeys(("keep", "gone", "beside", "note", "edited", "kept", "missing"), "yellow"),
    **dict.fromkeys(("delete", "conflict", "fix"), "red"),
}


def prepare() -> None:
    """Make the standard streams usable, which may be closed, or unable to encode all characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr does so by default
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def reporting(*, done: bool) -> Iterator[None]:
    """A report that cannot be printed is no error, as the change itself was made."""
    try:
        yield
    except OSError as error:
        if not done:
            raise
        warn(f"done, but the report cannot be printed: {_reason(error)}")


def _print(text: str, *, err: bool = False, colour: bool | None = None) -> None:
    """Print; a reader that is gone, as after `| head`, is no error."""
    try:
        typer.echo(text, err=err, color=colour)
    except OSError as error:
        stream = sys.stderr if err else sys.stdout
        # the rest, and what is buffered, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not (err or isinstance(error, BrokenPipeError)):
            raise


def say(
    line: str = "", *, colour: str | None = None, dim: bool = False, bold: bool = False
) -> None:
    """Print a line, without colours in a pipe or if NO_COLOR is set."""
    plain = False if os.environ.get("NO_COLOR") else None
    styled = typer.style(line, fg=colour, dim=dim or None, bold=bold or None)
    _print(styled, colour=plain)


def _painted(line: str, word: str) -> str:
    """The line, with the first occurrence of `word` in the colour for that word."""
    return line.replace(word, typer.style(word, fg=COLOURS[word]), 1) if word in COLOURS else line


def say_json(data: Mapping[str, Any]) -> None:
    _print(json.dumps(data, indent=2))


def title(name: str) -> None:
    say(f"scaffold {__version__}: a new project `{name}`", bold=True)


def warn(text: str) -> None:
    _print(f"note: {text}", err=True)


def misplaced(project: Path, paths: Iterable[str]) -> None:
    for path, fix in out_of_place(project, paths).items():
        warn(f"`{path}` has no effect here: {fix}")


def fail(error: Exception, *, as_json: bool) -> None:
    if as_json:
        paths = {"conflicts": error.paths} if isinstance(error, ConflictError) else {}
        return say_json({"error": _reason(error), **paths})
    first, *rest = _reason(error).splitlines() or ["unknown error"]
    mark = "" if isinstance(error, CancelledError) else "error: "
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red = typer.style(mark, fg="red") if coloured else mark
    _print("\n".join([f"{red}{first}", *(f"  {line}" for line in rest[:2])]), err=True)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename  # of a rename, the target
        return f"{error.strerror}: {place}" if place else error.strerror
    return str(error)


def created(
    answers: Answers,
    tree: Tree,
    to: str,
    kept: list[str],
    *,
    dry_run: bool,
    git: bool,
    as_json: bool,
) -> None:
    """Report a new project; `to` is the command that enters its folder, `kept` the files that existed before."""
    next_command = f"{to}python train.py" if "train.py" in tree else to.removesuffix(" && ")
    if as_json:
        said = {"project": answers.name, "dry_run": dry_run, "files": sorted(tree), "kept": kept}
        say_json({**said, "next": next_command})
    elif dry_run:
        for path in sorted(tree):
            say(f"  + {answers.name}/{path}")
        say(f"{len(tree)} files, nothing written")
        _kept(kept)
    else:
        origin = public(answers.template) or answers.task
        say(f"Created `{answers.name}` from `{origin}`", bold=True)
        if not answers.template:
            for title, kind in (("callbacks", "callback"), ("loggers", "logger")):
                on = ", ".join(answers.on(kind)) or "none"
                say(_hung(f"  {title:<9}  {on}", indent=13))
        repository = ", a git repository" if git else ""
        more = "" if answers.template else "; `scaffold list` shows what can be added"
        say(f"  {len(tree)} files{repository}{more}")
        _kept(kept)
        if next_command:
            say(f"\n{next_command}", bold=True)


def _kept(paths: list[str]) -> None:
    ignore = "; let git ignore /runs/, /data/ and *.ckpt" if ".gitignore" in paths else ""
    if paths:
        say(_hung(f"  kept yours: {', '.join(paths)}{ignore}"))


def changed(
    headline: str, proposal: "Proposal", pending: list[str], *, dry_run: bool, as_json: bool
) -> None:
    said, headline = proposal.plan.said, proposal.headline or headline
    if as_json:
        steps = [{"path": path, "verb": verb, "note": note} for path, verb, note in said]
        return say_json({"dry_run": dry_run, "steps": steps, "pending": pending})
    if proposal.changes_nothing:
        say("Nothing to do" if said else "Nothing to do, everything is as it should be")
    else:
        say(f"Would do: {headline}" if dry_run else headline, bold=True)
    for path, verb, note in _gathered(said):
        line = f"  {verb:<9} {path}{f'  ({note})' if note else ''}"
        say(_painted(_hung(line, indent=12), verb))
    if dry_run:
        say("nothing written")
    elif pending:
        say("edit the conflicts, then `scaffold resolve`; or `scaffold undo`")
    return None


def _gathered(said: "list[tuple[str, Verb, str]]") -> Iterator[tuple[str, str, str]]:
    """The steps, with one line for a folder where the same happens to many files, such as a vendored runtime."""
    for (verb, note, folder), group in groupby(
        said, key=lambda step: (step[1], step[2], step[0].rpartition("/")[0].partition("/")[0])
    ):
        paths = [path for path, _, _ in group]
        if folder and len(paths) > MOST_LINES:
            yield f"{folder}/", verb, f"{len(paths)} files"
        else:
            yield from ((path, verb, note) for path in paths)


def resolved(as_json: bool) -> None:
    if as_json:
        return say_json({"pending": []})
    return say("No open conflicts")


def merging(paths: list[str], as_json: bool) -> None:
    """What is left to do in git after a merge."""
    if paths and not as_json:
        how = "`git commit`, in a rebase `git rebase --continue`"
        say(f"finish the merge: check `git status`, then `git add -A` and {how}")


def listed(features: "list[Feature]", as_json: bool) -> None:
    if as_json:
        return say_json({"features": [vars(feature) for feature in features]})
    if not features:
        say("No features: they belong to the built-in templates, and this project has its own")
    for kind, group in groupby(features, key=lambda feature: feature.kind):
        say(kind, bold=True)
        parts = list(group)
        width = max(len(part.name) for part in parts)
        for part in parts:
            line = f"  {part.state:<7} {part.name:<{width}}  {part.description}"
            say(_painted(line, part.state), dim=not part.state)
    return None


def compared(own: "list[Difference]", coming: "list[Difference]", as_json: bool) -> None:
    if as_json:
        return say_json({"own": [vars(d) for d in own], "coming": [vars(d) for d in coming]})
    for title, differences in (("Your changes", own), ("What `update` would change", coming)):
        if differences:
            many = "1 file" if len(differences) == 1 else f"{len(differences)} files"
            say(f"{title}: {many}", bold=True)
            for line in "".join(each.text for each in differences).splitlines():
                say(line, colour=COLOURS.get(line[:1]))
    if not own and not coming:
        say("No changes: every generated file is as it was written")
    return None


def examined(findings: "list[Finding]", as_json: bool) -> None:
    if as_json:
        return say_json({"findings": [vars(finding) for finding in findings]})
    for finding in findings:
        say(_painted(_hung(f"{finding.level:<5} {finding.what}"), finding.level))
        if finding.fix:
            say(_hung(f"      {finding.fix}"))
    return None


def _hung(line: str, indent: int = 6) -> str:
    """Wrapped with a hanging indent on a terminal; unchanged in a pipe, for other programs."""
    if not sys.stdout.isatty():
        return line
    return textwrap.fill(
        line,
        shutil.get_terminal_size().columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
