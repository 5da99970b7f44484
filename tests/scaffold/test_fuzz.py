"""A thousand odd names and answers: no traceback, nothing structural altered, no stray write."""

import os
from dataclasses import replace

import tomllib
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scaffold.answers import default_answers, from_yaml, to_yaml
from scaffold.catalogue import packaged
from scaffold.errors import ScaffoldError
from scaffold.lock import Entry
from scaffold.names import check_name, one_line, package_name
from scaffold.render import render

CATALOGUE = packaged()
ANSWERS = default_answers("my-exp", CATALOGUE)
FORMATTED = {path: Entry(file) for path, file in render(ANSWERS, CATALOGUE).items()}
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


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ODD, ODD)
@example("José 🔥", "")
@example('"""\n[tool.evil]\nx = 1', "{{ 7*7 }}{% raw %}\\")
def test_free_text_stays_text(author, description):
    author, description = one_line(author), one_line(description)
    answers = replace(ANSWERS, author=author, description=description)
    assert from_yaml(to_yaml(answers)) == answers
    tree = render(answers, CATALOGUE, base=FORMATTED)
    parsed = tomllib.loads(tree["pyproject.toml"].data.decode())
    assert parsed["project"]["description"] == description
    assert parsed["project"].get("authors", [{"name": ""}]) == [{"name": author}]
    assert "evil" not in parsed["tool"]
