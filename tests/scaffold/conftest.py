"""Every test gets an empty folder, and a command line that runs in process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from scaffold.catalogue import Catalogue
from scaffold.cli import main

if sys.version_info < (3, 11):
    import tomli  # what it is there; pytest needs it, too

    sys.modules["tomllib"] = tomli


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Scaffold = Callable[..., Ran]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty current folder; git ignores the settings of the machine."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return folder


@pytest.fixture
def scaffold(capsys: pytest.CaptureFixture[str]) -> Scaffold:
    """Run the command as a user would, without a terminal."""

    def run(*words: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out, err = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretend that this older or newer version of the templates is the installed one."""

    def use(version: str) -> None:
        catalogue = Catalogue(Path(__file__).parent / "generations" / version, version)
        for module in ("cli", "change"):
            monkeypatch.setattr(f"scaffold.{module}.packaged", lambda: catalogue)

    return use
