"""The answers of a new project: from flags, from the wizard, else the defaults."""

from collections.abc import Mapping
from dataclasses import replace

from scaffold import console, git, wizard
from scaffold.answers import Answers, command, default_answers, with_flags
from scaffold.catalogue import KINDS, Catalogue
from scaffold.errors import ScaffoldError
from scaffold.names import check_name, one_line
from scaffold.runtime import check_runtime

NAMES = ("project_name", "name", "project")  # questions that mean the project's name


def choose(
    name: str, flags: Mapping[str, str | None], runtime: str, catalogue: Catalogue, *, ask: bool
) -> Answers:
    answers = replace(default_answers(name, catalogue), runtime=check_runtime(runtime))
    answers = with_flags(answers, flags, catalogue)
    if ask and not any(flag is not None for flag in flags.values()):
        console.title(name)
        answers = wizard.ask(replace(answers, author=git.author()), catalogue)
    answers = answers.complete(catalogue)
    return replace(answers, command=command(answers))


def choose_own(
    name: str, source: str, data: list[str], catalogue: Catalogue, *, ask: bool
) -> Answers:
    """The answers for a team's own template; warns about parts of it that will not run."""
    from scaffold.own import answered, fetch, pinned

    check_name(name)
    source = pinned(source)
    fetched = fetch(source)
    if fetched.ignored:
        console.warn(f"ignored in the template, as it would run code: {', '.join(fetched.ignored)}")
    name_key = next((key for key in NAMES if key in fetched.questions), None)
    given = {name_key: name} if name_key else {}
    given |= dict(_pair(word) for word in data)
    own = answered(source, given, ask=ask)
    kept = [f"--data {w}" for w in data if w.partition("=")[0] in own]  # without secret answers
    line = " ".join([f"scaffold new {name} --template {source}", *kept])
    return Answers(
        name,
        task="",
        features=dict.fromkeys(KINDS, ()),
        version=catalogue.version,
        created=catalogue.version,
        command=line,
        template=source,
        template_answers=own,
    )


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ScaffoldError(f"--data {one_line(word)}: write it as key=value")
    return key, value
