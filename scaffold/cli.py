"""The command line: parse, call, print, exit code."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scaffold import __version__, console
from scaffold.answers import Answers, command, default_answers
from scaffold.catalogue import Catalogue, packaged
from scaffold.errors import ScaffoldError
from scaffold.names import one_line

app = typer.Typer(
    help="Write a small PyTorch project, and keep it connected to its templates.",
    epilog="Start with `scaffold new my-exp`",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON")]


def main(words: list[str] | None = None) -> None:
    """Run the command; an error the user can mend is at most three lines."""
    try:
        app(words)
    except (ScaffoldError, OSError) as error:
        console.fail(error)
        sys.exit(getattr(error, "exit_code", 1))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"scaffold {__version__}")
        raise typer.Exit


@app.callback()
def scaffold(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `scaffold new my-exp --callbacks early-stopping --loggers csv`")
def new(
    name: Annotated[str, typer.Argument(help="Of the folder; `my-exp` has the package `my_exp`")],
    task: Annotated[str | None, typer.Option(help="What to train")] = None,
    callbacks: Annotated[str | None, typer.Option(help="Comma-separated, or `none`")] = None,
    loggers: Annotated[str | None, typer.Option(help="Comma-separated, or `none`")] = None,
    strategy: Annotated[str | None, typer.Option(help="How to use several devices")] = None,
    extras: Annotated[str | None, typer.Option(help="Comma-separated")] = None,
    author: Annotated[str | None, typer.Option(help="Your name")] = None,
    description: Annotated[str | None, typer.Option(help="One line")] = None,
    runtime: Annotated[str, typer.Option(help="A folder or a version of the runtime")] = "",
    defaults: Annotated[bool, typer.Option("--defaults", help="Ask nothing")] = False,
    no_git: Annotated[bool, typer.Option("--no-git", help="Start no repository")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a new project into the folder NAME."""
    from scaffold import create, git, wizard
    from scaffold.runtime import check_runtime

    catalogue = packaged()
    target = Path.cwd() / name
    answers = replace(default_answers(name, catalogue), runtime=check_runtime(runtime))
    create.check_target(target)
    flags = {"callback": callbacks, "logger": loggers, "strategy": strategy, "extra": extras}
    flags |= {"task": task, "author": author, "description": description}
    answers = _answered(answers, flags, catalogue)
    quiet = defaults or as_json or any(flag is not None for flag in flags.values())
    if not quiet and wizard.on_terminal():
        console.title(name)
        answers = wizard.ask(replace(answers, author=git.author()), catalogue)
    answers = replace(answers, command=command(answers))
    tree = create.plan_new(answers, target, catalogue)
    if not dry_run:
        create.write_new(tree, target)
    started = not dry_run and not no_git and git.init(target)
    console.created(answers, tree, dry_run=dry_run, git=started, as_json=as_json)


def _answered(answers: Answers, flags: dict[str, str | None], catalogue: Catalogue) -> Answers:
    """The defaults, with what the flags say instead."""
    features = dict(answers.features)
    for kind in features:
        if (names := flags[kind]) is not None:
            features[kind] = _features(kind, names, catalogue)
    task = answers.task if flags["task"] is None else catalogue.task(flags["task"]).name
    author, description = (one_line(flags[key] or "") for key in ("author", "description"))
    return replace(answers, task=task, features=features, author=author, description=description)


def _features(kind: str, names: str, catalogue: Catalogue) -> tuple[str, ...]:
    words = [word.strip() for word in names.split(",") if word.strip() not in ("", "none")]
    return tuple(sorted({catalogue.feature(kind, word).name for word in words}))
