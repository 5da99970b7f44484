"""How a project depends on the runtime."""

import os
from pathlib import Path

import pytest
import tomllib

from scaffold.runtime import NEEDS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime" / "scaffold_runtime"


def dependencies() -> list[str]:
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]


def source() -> dict[str, bytes]:
    files = (path for path in SOURCE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(SOURCE).as_posix(): path.read_bytes() for path in files}


def test_a_range_by_default(scaffold):
    scaffold("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    assert "scaffold-runtime>=0.1,<0.2" in dependencies()


def test_a_version_and_a_folder(scaffold):
    scaffold("new", "one", "--runtime", "0.1.0")
    scaffold("new", "two", "--runtime", str(ROOT / "runtime"))
    os.chdir("one")
    assert "scaffold-runtime==0.1.0" in dependencies()
    os.chdir("../two")
    assert f"scaffold-runtime @ {(ROOT / 'runtime').as_uri()}" in dependencies()


@pytest.mark.parametrize("folder", ["/nowhere", "~no-such-user/runtime"])
def test_a_folder_without_a_runtime_is_refused(scaffold, folder):
    assert scaffold("new", "my-exp", "--runtime", folder).code == 1
    assert not Path("my-exp").exists()


def test_the_needs_are_those_of_the_runtime():
    project = tomllib.loads((ROOT / "runtime/pyproject.toml").read_text())["project"]
    assert sorted(NEEDS) == sorted(project["dependencies"])


@pytest.fixture
def vendored(scaffold):
    assert (
        scaffold("new", "my-exp", "--no-git", "--runtime", "vendored", "--task", "blank").code == 0
    )
    os.chdir("my-exp")
    return scaffold


def test_a_copy_holds_all_of_it_with_its_licence(vendored):
    here = Path("scaffold_runtime")
    copied = {
        p.relative_to(here).as_posix(): p.read_bytes() for p in here.rglob("*") if p.is_file()
    }
    assert copied.pop("LICENSE") == (ROOT / "runtime/LICENSE").read_bytes()
    assert copied == source()
    assert not any("scaffold-runtime" in line for line in dependencies())
    assert set(NEEDS) <= set(dependencies())


def test_update_links_otherwise_and_keeps_edits(vendored):
    own = Path("scaffold_runtime/seed.py")
    own.write_text(own.read_text() + "# mine\n")
    assert vendored("update", "--runtime", "").code == 0
    assert "scaffold-runtime>=0.1,<0.2" in dependencies()
    assert [path.name for path in Path("scaffold_runtime").rglob("*.py")] == ["seed.py"]
    assert vendored("update", "--runtime", "vendored").code == 0
    assert own.read_text().endswith("# mine\n")
    assert Path("scaffold_runtime/module.py").exists()


@pytest.mark.parametrize("version", ["99", "0", "0.2.0", "1.1", "0.10", "0.1.0;x", "0.1.0 "])
def test_a_version_that_the_templates_do_not_fit_is_refused(scaffold, version):
    scaffold("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    ran = scaffold("update", "--runtime", version)
    assert (ran.code, "these templates need scaffold-runtime>=0.1,<0.2" in ran.err) == (1, True)
    assert "scaffold-runtime>=0.1,<0.2" in dependencies()
    assert scaffold("new", "other", "--runtime", version).code == 1


def test_a_pinned_one_that_newer_templates_do_not_fit_is_said(scaffold):
    scaffold("new", "my-exp", "--no-git", "--runtime", "0.1.0")
    os.chdir("my-exp")
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("runtime: 0.1.0", "runtime: 0.0.7"))
    ran = scaffold("update")
    assert (ran.code, "these templates need scaffold-runtime>=0.1,<0.2" in ran.err) == (1, True)
    assert "scaffold-runtime==0.1.0" in dependencies()
    assert scaffold("update", "--runtime", "").code == 0
    assert "scaffold-runtime>=0.1,<0.2" in dependencies()


def test_an_answer_of_nothing_is_none(scaffold):
    scaffold("new", "my-exp", "--no-git")
    os.chdir("my-exp")
    answers = Path(".scaffold/answers.yml")
    answers.write_text(answers.read_text().replace("runtime: ''", "runtime:"))
    assert scaffold("update").code == 0
    assert "scaffold-runtime>=0.1,<0.2" in dependencies()


@pytest.mark.parametrize("version", ["0.1", "0.1.0rc1", "0.1.3.post1"])
def test_a_version_in_the_range_is_taken(scaffold, version):
    scaffold("new", "my-exp", "--no-git", "--runtime", version)
    os.chdir("my-exp")
    assert f"scaffold-runtime=={version}" in dependencies()
