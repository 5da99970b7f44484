"""The command line: parse, call, print, exit code."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scaffold import __version__, complete, console
from scaffold.catalogue import packaged
from scaffold.change import Manner, change
from scaffold.complete import several
from scaffold.errors import ScaffoldError
from scaffold.names import check_name, pick

app = typer.Typer(
    help="Generate a small PyTorch project, and update it from its templates later.",
    epilog="Start with `scaffold new my-exp`",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _option(text: str, complete: Any = None) -> Any:
    return typer.Option(help=text, autocompletion=complete)


Text = str | None
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, write nothing")]
Conflicts = Annotated[
    str, _option("How to resolve conflicts: markers, mine or template", complete.policies)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]
KindArgument = Annotated[
    str, typer.Argument(help="callback, logger, strategy or extra", autocompletion=complete.kinds)
]
NameArgument = Annotated[
    str, typer.Argument(help="As shown by `scaffold list`", autocompletion=complete.names)
]


def main(words: list[str] | None = None) -> None:
    """Run the command; an error that the user can fix is printed in at most three lines."""
    console.prepare()
    try:
        app(words)
    except (ScaffoldError, OSError) as error:
        console.fail(error, as_json="--json" in (sys.argv if words is None else words))
        sys.exit(getattr(error, "exit_code", 1))


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"scaffold {__version__}")
        raise typer.Exit


@app.callback()
def scaffold(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ScaffoldError(
            "this folder was deleted, perhaps by `scaffold remove`; cd to another"
        ) from None


@app.command(epilog="Example: `scaffold new my-exp --callbacks early-stopping --loggers csv`")
def new(
    name: Annotated[
        str, typer.Argument(help="The folder, or `.`; the package of `my-exp` is `my_exp`")
    ],
    task: Annotated[Text, _option("The kind of project", complete.tasks)] = None,
    callbacks: Annotated[Text, _option("Comma-separated, or `none`", several("callback"))] = None,
    loggers: Annotated[Text, _option("Comma-separated, or `none`", several("logger"))] = None,
    strategy: Annotated[
        Text, _option("For several devices: ddp, fsdp, ...", several("strategy"))
    ] = None,
    extras: Annotated[Text, _option("Comma-separated", several("extra"))] = None,
    author: Annotated[Text, _option("Your name")] = None,
    description: Annotated[Text, _option("One line")] = None,
    runtime: Annotated[str, _option("A version, a folder, or `vendored`: a copy of it")] = "",
    template: Annotated[
        str, _option("A Copier template of your own: a folder or a git URL, with @ref")
    ] = "",
    data: Annotated[list[str] | None, _option("An answer for `--template`, as key=value")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ask no questions")] = False,
    no_git: Annotated[bool, typer.Option("--no-git", help="Create no git repository")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Generate a new project in the folder NAME; `.` is the current one."""
    from scaffold import create, git, wizard
    from scaffold.choose import choose, choose_own

    catalogue, here = packaged(), name == "."
    target = Path.cwd() if here else Path.cwd() / name
    if here:
        name = target.name
        check_name(name, "rename this folder, or create one in it with `scaffold new my-exp`")
    check_name(name)
    ask = wizard.on_terminal() and not (defaults or as_json)
    if not dry_run:
        create.clear(target)
    kept = create.check_target(target)
    if data and not template:
        raise ScaffoldError("--data answers a template's questions: name it with --template")
    flags = {"callback": callbacks, "logger": loggers, "strategy": strategy, "extra": extras}
    flags |= {"task": task, "author": author, "description": description}
    if template and (runtime or any(flag is not None for flag in flags.values())):
        raise ScaffoldError("a template of your own has its own questions: answer them with --data")
    if template:
        answers = choose_own(name, template, data or [], catalogue, ask=ask)
    else:
        answers = choose(name, flags, runtime, catalogue, ask=ask)
    tree = create.plan_new(answers, catalogue, kept)
    if not dry_run:
        create.write_new(tree, target)
    started = not dry_run and not no_git and git.init(target)
    to = "" if here else f"cd {name} && "
    to += "pip install -e . && " * create.needs_install(answers, catalogue)
    with console.reporting(done=not dry_run):
        console.created(answers, tree, to, kept, dry_run=dry_run, git=started, as_json=as_json)
        console.misplaced(target, tree)


@app.command(epilog="Examples: `scaffold add callback ema`, `scaffold add module resnet`")
def add(
    kind: Annotated[
        str,
        typer.Argument(
            help="callback, logger, strategy, extra; module or datamodule",
            autocompletion=complete.addable,
        ),
    ],
    name: NameArgument,
    custom: Annotated[bool, typer.Option("--custom", help="Start your own, with test")] = False,
    conflict: Conflicts = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch a feature on, or start one of your own."""
    from scaffold import grow, stubs
    from scaffold.project import open_project

    kind = pick(kind, complete.addable(""), "kind")
    make = stubs.stub if custom or kind in ("module", "datamodule") else grow.add
    change(
        f"Added {kind} `{name}`",
        lambda root, catalogue: make(open_project(root), kind, name, catalogue),
        Manner(conflict, dry_run, as_json),
    )


@app.command(epilog="Example: `scaffold remove logger tensorboard`")
def remove(
    kind: KindArgument,
    name: NameArgument,
    conflict: Conflicts = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch a feature off; files that you edited stay."""
    from scaffold import grow
    from scaffold.project import open_project

    change(
        f"Removed {kind} `{name}`",
        lambda root, catalogue: grow.remove(open_project(root), kind, name, catalogue),
        Manner(conflict, dry_run, as_json),
    )


@app.command(epilog="Example: `scaffold update --dry-run`")
def update(
    ref: Annotated[str, _option("For a template of your own: the git ref to update to")] = "",
    runtime: Annotated[
        Text, _option("Change the runtime: a version, a folder, or `vendored`")
    ] = None,
    conflict: Conflicts = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Merge the templates of the installed version with your edits."""
    from scaffold import grow
    from scaffold.project import open_project

    change(
        f"Updated to {packaged().version}",
        lambda root, catalogue: grow.update(open_project(root), catalogue, ref, runtime),
        Manner(conflict, dry_run, as_json),
    )


@app.command(epilog="Example: `scaffold undo`")
def undo(conflict: Conflicts = "", dry_run: DryRun = False, as_json: Json = False) -> None:
    """Take back the last change; a second undo redoes it."""
    from scaffold import grow

    change(
        "Undid the last change",
        lambda root, _: grow.undo(root),
        Manner(conflict, dry_run, as_json, while_pending=True),
    )


@app.command(epilog="Example: `scaffold resolve`")
def resolve(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Finish a change after you have resolved its conflicts."""
    from scaffold.journal import alone
    from scaffold.project import find_root
    from scaffold.transition import PENDING, check_nothing_pending

    root = find_root(Path.cwd())
    with alone(root, dry_run=dry_run):
        check_nothing_pending(root)
        if not dry_run:
            (root / PENDING).unlink(missing_ok=True)
    with console.reporting(done=not dry_run):
        console.resolved(as_json)


@app.command("list", epilog="Example: `scaffold list --json`")
def list_(as_json: Json = False) -> None:
    """List the available features, and which are on."""
    from scaffold import look

    console.listed(look.features(packaged(), Path.cwd()), as_json)


@app.command(epilog="Example: `scaffold diff`")
def diff(as_json: Json = False) -> None:
    """Show what you changed since generation, and what `update` would change."""
    from scaffold import look
    from scaffold.journal import check_whole
    from scaffold.project import find_root, open_project

    check_whole(root := find_root(Path.cwd()))
    project = open_project(root)
    own, coming = look.own_changes(project), list[look.Difference]()
    try:
        coming = look.coming_changes(project, packaged())
    except ScaffoldError as error:
        if not project.answers.template:
            raise
        console.warn(f"cannot show what `update` would change: {error}")
    console.compared(own, coming, as_json)


@app.command(epilog="Example: `scaffold doctor`")
def doctor(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rebuild answers and lock after a git merge")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Find problems of the environment or the project, and say how to fix them."""
    from scaffold.doctor import examine
    from scaffold.project import find_root

    root = find_root(Path.cwd())
    if rebuild:
        from scaffold.git import unmerged
        from scaffold.rebuild import rebuild as make

        manner = Manner("", dry_run, as_json, while_pending=True)
        change("Rebuilt the lock", make, manner)
        return console.merging(unmerged(root), as_json)
    findings = examine(root, packaged())
    console.examined(findings, as_json)
    if any(finding.level == "fix" for finding in findings):
        raise typer.Exit(1)
    return None
