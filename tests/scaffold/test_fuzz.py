"""A thousand odd names and answers: no traceback, nothing structural altered, no stray write."""

import os
from dataclasses import replace

import tomllib
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaffold.answers import Answers, default_answers, from_yaml, to_yaml
from scaffold.catalogue import packaged
from scaffold.errors import ScaffoldError
from scaffold.names import check_name, one_line, package_name

CATALOGUE = packaged()
ODD = st.text(st.characters(), max_size=80) | st.text("./\\-_ aA0{}%\n\t'\"$;:*", max_size=12)


@settings(max_examples=700, deadline=None, derandomize=True)
@given(ODD)
@example("con")
@example("x" * 64)
def test_a_name_is_refused_or_harmless(name):
    try:
        check_name(name)
    except ScaffoldError as error:
        refused = str(error)
    else:
        refused = ""
    assert len(refused.splitlines()) == bool(refused)
    if not refused:
        assert package_name(name).isidentifier()
        assert os.path.basename(os.path.normpath(name)) == name
        assert name.isascii()


def rendered_pyproject(answers: Answers) -> str:
    """The only template that puts free text into structured data, rendered as Copier does."""
    from copier import Settings  # noqa: F401  (its filters come with it)
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    from scaffold.render import variables

    env = SandboxedEnvironment(
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = (CATALOGUE.root / "project/pyproject.toml.jinja").read_text()
    return env.from_string(source).render(variables(answers, answers.parts(CATALOGUE)))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ODD, ODD)
@example("José 🔥", "")
@example('"""\n[tool.evil]\nx = 1', "{{ 7*7 }}{% raw %}\\")
def test_free_text_stays_text(author, description):
    author, description = one_line(author), one_line(description)
    answers = replace(default_answers("my-exp", CATALOGUE), author=author, description=description)
    assert from_yaml(to_yaml(answers)) == answers
    parsed = tomllib.loads(rendered_pyproject(answers))
    assert parsed["project"]["description"] == description
    assert parsed["project"].get("authors", [{"name": ""}]) == [{"name": author}]
    assert "evil" not in parsed["tool"]
